//! The hold: a TAP device through which the programs give user space the packets that need a decision
//! they cannot take, and through which user space gives them back. What is written to it arrives at
//! the cluster interface again, where a binding now tells the programs what to do. A TAP device
//! without offloads gets whole, checksummed segments of at most an MTU, whatever the NIC merged.
#![allow(unsafe_code, reason = "three ioctls that no crate wraps for this use")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use baton_cluster::Flow;

use crate::connections::Heard;
use crate::error::DatapathError;

/// Packets the device queues for user space before it drops (counted by the device).
const QUEUE_LEN: i32 = 1024;

/// The hold device. It disappears when this is dropped.
#[derive(Debug)]
pub struct Hold {
    file: File,
    index: u32,
}

impl Hold {
    /// Makes the device in the current network namespace and brings it up.
    ///
    /// # Errors
    /// Without /dev/net/tun or CAP_NET_ADMIN, or when a device of that name exists.
    pub fn create(name: &str) -> Result<Self, DatapathError> {
        Self::try_create(name).map_err(|cause| DatapathError::Hold { name: name.to_owned(), cause })
    }

    fn try_create(name: &str) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags =
            i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).map_err(io::Error::other)?;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, for the call only.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;

        // Without this the device would send router solicitations to user space. No IPv6: no file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let any_socket = UdpSocket::bind("0.0.0.0:0")?;
        request.ifr_ifru.ifru_metric = QUEUE_LEN;
        // SAFETY: SIOCSIFTXQLEN reads one ifreq with the length in the place of ifru_metric (ifr_qlen).
        check(unsafe { libc::ioctl(any_socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut request) })?;
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(io::Error::other)?;
        // SAFETY: SIOCSIFFLAGS reads one ifreq with ifru_flags set.
        check(unsafe { libc::ioctl(any_socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
        let index = nix::net::if_::if_nametoindex(name)?;
        Ok(Self { file, index })
    }

    /// The device's interface number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Reads one held frame; its length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives a frame back to the programs.
    ///
    /// # Errors
    /// The system's, when the device's queue or memory is full: the frame is then lost, and the
    /// client repeats it.
    pub fn release(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(|_| ())
    }
}

impl AsRawFd for Hold {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::other("interface names have 1 to 15 bytes"));
    }
    // SAFETY: ifreq is a plain C struct and union of integers and arrays; all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

const FIN: u8 = 1;
/// Packets are joined up to this payload, which every MSS that is agreed on allows (RFC 9293 3.7.1).
const JOINED_MIN: usize = 500;

pub(crate) const L3: usize = 14;
const L4_OF_V4: usize = L3 + 20;
const L4_OF_V6: usize = L3 + 40;
pub(crate) const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];

/// Where TCP begins in a frame of IPv4 or IPv6 without options; `None` for anything else.
pub(crate) fn l4_of(frame: &[u8]) -> Option<usize> {
    let ethertype: [u8; 2] = frame.get(12..L3)?.try_into().ok()?;
    let tcp = |protocol: usize| frame.get(protocol) == Some(&6);
    match ethertype {
        ETHERTYPE_V4 if *frame.get(L3)? == 0x45 && tcp(L3 + 9) => Some(L4_OF_V4),
        ETHERTYPE_V6 if *frame.get(L3)? >> 4 == 6 && tcp(L3 + 6) => Some(L4_OF_V6),
        _ => None,
    }
}

/// Sets the length and the checksums of a frame of IP and TCP.
pub(crate) fn finish(frame: &mut [u8]) -> Option<()> {
    let l4 = l4_of(frame)?;
    let tcp_len = u16::try_from(frame.len().checked_sub(l4)?).ok()?;
    let addresses = if l4 == L4_OF_V4 {
        let ip_len = tcp_len.checked_add(20)?;
        frame.get_mut(L3 + 2..L3 + 4)?.copy_from_slice(&ip_len.to_be_bytes());
        frame.get_mut(L3 + 10..L3 + 12)?.fill(0);
        let ip = fold(sum(frame.get(L3..l4)?));
        frame.get_mut(L3 + 10..L3 + 12)?.copy_from_slice(&ip.to_be_bytes());
        L3 + 12..l4
    } else {
        frame.get_mut(L3 + 4..L3 + 6)?.copy_from_slice(&tcp_len.to_be_bytes());
        L3 + 8..l4
    };
    frame.get_mut(l4 + 16..l4 + 18)?.fill(0);
    let pseudo = sum(frame.get(addresses)?) + 6 + u32::from(tcp_len);
    let tcp = fold(pseudo + sum(frame.get(l4..)?));
    frame.get_mut(l4 + 16..l4 + 18)?.copy_from_slice(&tcp.to_be_bytes());
    Some(())
}

/// RFC 1071; of at most a frame, so that it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| {
        let high = pair.first().copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([high, pair.get(1).copied().unwrap_or(0)]))
    };
    bytes.chunks(2).map(word).sum()
}

/// The checksum (RFC 1071) of some parts, each of an even number of bytes but the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    fold(parts.iter().map(|part| sum(part)).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Where in a segment's options TSval stands.
fn timestamps_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match (*options.get(at)?, options.get(at + 1).copied()) {
            (0, _) => return None,
            (1, _) => at += 1,
            (8, Some(10)) => return options.get(at + 2..at + 10).map(|_| at + 2),
            (_, Some(length @ 2..)) => at += usize::from(length),
            _ => return None,
        }
    }
}

/// What user space needs to know of a held frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The frame as it came.
    pub bytes: Vec<u8>,
    /// Its connection.
    pub flow: Flow,
    /// Sequence number of its first payload byte.
    pub seq: u32,
    /// Where in `bytes` TCP begins.
    l4: usize,
    payload_at: usize,
    payload_end: usize,
}

impl Frame {
    /// Reads an Ethernet frame of IP and TCP; `None` for anything else (the programs hold nothing
    /// else, but a device may be written to by others).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let be16 = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let be32 = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let l4 = l4_of(bytes)?;
        let payload_at = l4 + usize::from(*bytes.get(l4 + 12)? >> 4) * 4;
        let (payload_end, client, vip) = if l4 == L4_OF_V4 {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            (L3 + usize::from(be16(L3 + 2)?), address(L3 + 12)?, address(L3 + 16)?)
        } else {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            (l4 + usize::from(be16(L3 + 4)?), address(L3 + 8)?, address(L3 + 24)?)
        };
        if payload_at < l4 + 20 || payload_at > payload_end || payload_end > bytes.len() {
            return None;
        }
        let flow = Flow { client, vip, client_port: be16(l4)?, vip_port: be16(l4 + 2)? };
        Some(Self { bytes: bytes.to_vec(), flow, seq: be32(l4 + 4)?, l4, payload_at, payload_end })
    }

    /// The packet without its bytes from `seq` on (and without its FIN, which is behind them); `None` if
    /// it has none of these, or nothing would be left.
    pub fn cut(&self, seq: u32) -> Option<Self> {
        let keep = usize::try_from(seq.wrapping_sub(self.seq).cast_signed()).ok().filter(|n| *n > 0)?;
        if keep >= self.payload().len() {
            return None;
        }
        let mut shorter = self.clone();
        shorter.payload_end = self.payload_at + keep;
        shorter.bytes.truncate(shorter.payload_end);
        let flags = shorter.bytes.get_mut(self.l4 + 13)?;
        *flags &= !1;
        finish(&mut shorter.bytes)?;
        Some(shorter)
    }

    /// The packet from `seq` on; `None` if nothing would be left, or nothing left out.
    pub fn after(&self, seq: u32) -> Option<Self> {
        let skip = usize::try_from(seq.wrapping_sub(self.seq).cast_signed()).ok().filter(|n| *n > 0)?;
        if skip >= self.payload().len() {
            return None;
        }
        let mut rest = self.clone();
        rest.bytes.truncate(self.payload_end);
        rest.bytes.drain(self.payload_at..self.payload_at + skip);
        rest.payload_end -= skip;
        rest.seq = seq;
        rest.bytes.get_mut(self.l4 + 4..self.l4 + 8)?.copy_from_slice(&seq.to_be_bytes());
        finish(&mut rest.bytes)?;
        Some(rest)
    }

    /// What these packets of one connection carry, made anew: joined where one goes on where another ends,
    /// cut into packets as long as the longest of them may be, saying what the client has said since.
    /// They must be in order.
    pub fn renewed(frames: &[Self], heard: &Heard) -> Vec<Self> {
        let mut runs: Vec<(&Self, Vec<u8>, bool)> = Vec::new();
        for frame in frames {
            let fin = frame.bytes.get(frame.l4 + 13).is_some_and(|flags| flags & FIN != 0);
            if let Some((first, bytes, ended)) = runs.last_mut() {
                let end = first.seq.wrapping_add(bytes.len() as u32);
                let old = end.wrapping_sub(frame.seq).cast_signed();
                if let Some(new) = usize::try_from(old).ok().and_then(|old| frame.payload().get(old..)) {
                    bytes.extend(new);
                    *ended |= fin;
                    continue;
                }
                if old >= 0 {
                    continue;
                }
            }
            runs.push((frame, frame.payload().to_vec(), fin));
        }
        let most = frames.iter().map(|f| f.payload().len()).max().unwrap_or(0).max(JOINED_MIN);
        let mut renewed = Vec::new();
        for (first, bytes, fin) in &runs {
            let last = bytes.len().div_ceil(most).saturating_sub(1);
            for (i, payload) in bytes.chunks(most).enumerate() {
                let seq = first.seq.wrapping_add((i * most) as u32);
                renewed.extend(first.with(seq, payload, *fin && i == last, heard));
            }
        }
        renewed
    }

    fn with(&self, seq: u32, payload: &[u8], fin: bool, heard: &Heard) -> Option<Self> {
        let mut new = self.clone();
        new.bytes.truncate(self.payload_at);
        new.bytes.extend(payload);
        new.payload_end = new.bytes.len();
        new.seq = seq;
        new.bytes.get_mut(self.l4 + 4..self.l4 + 8)?.copy_from_slice(&seq.to_be_bytes());
        new.bytes.get_mut(self.l4 + 8..self.l4 + 12)?.copy_from_slice(&heard.ack.to_be_bytes());
        let flags = new.bytes.get_mut(self.l4 + 13)?;
        *flags = *flags & !FIN | if fin { FIN } else { 0 };
        new.bytes.get_mut(self.l4 + 14..self.l4 + 16)?.copy_from_slice(&heard.window.to_be_bytes());
        if let Some((value, echo)) = heard.timestamps {
            let at = timestamps_at(self.bytes.get(self.l4 + 20..self.payload_at)?)? + self.l4 + 20;
            new.bytes.get_mut(at..at + 4)?.copy_from_slice(&value.to_be_bytes());
            new.bytes.get_mut(at + 4..at + 8)?.copy_from_slice(&echo.to_be_bytes());
        }
        finish(&mut new.bytes)?;
        Some(new)
    }

    /// The TCP payload.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload_at..self.payload_end).unwrap_or(&[])
    }
}

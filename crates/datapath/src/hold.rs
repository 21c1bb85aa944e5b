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

use crate::connection::Heard;
use crate::error::DatapathError;
use crate::headers::{L3, L4_OF_V4, L4_OF_V6, finish, fold, l4_of};

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
        Self::try_create(name).map_err(|source| DatapathError::Hold { name: name.to_owned(), source })
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
        let index = nix::net::if_::if_nametoindex(name)?;
        let hold = Self { file, index };
        hold.try_set_up(name)?;
        Ok(hold)
    }

    /// Sets the device up, after somebody has set it down: what is held would be lost.
    ///
    /// # Errors
    /// When the kernel refuses, or the device is gone.
    pub fn set_up(&self) -> Result<(), DatapathError> {
        let name = nix::net::if_::if_indextoname(self.index).map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        self.try_set_up(&name).map_err(|source| DatapathError::Hold { name, source })
    }

    fn try_set_up(&self, name: &str) -> io::Result<()> {
        let any_socket = UdpSocket::bind("0.0.0.0:0")?;
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(io::Error::other)?;
        // SAFETY: SIOCSIFFLAGS reads one ifreq with ifru_flags set.
        check(unsafe { libc::ioctl(any_socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
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
const ACK: u8 = 16;
/// What Linux begins with.
const TIME_TO_LIVE: u8 = 64;
/// Packets are joined up to this payload, which every MSS that is agreed on allows (RFC 9293 3.7.1).
const JOINED_MIN: usize = 500;

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

    /// What these packets of one connection carry from `from` on, up to the first gap; they must be in order.
    pub fn joined(frames: &[Self], from: u32) -> Vec<u8> {
        Self::joined_to(frames, from, usize::MAX)
    }

    /// As [`Frame::joined`], but enough when there are so many bytes.
    pub fn joined_to(frames: &[Self], from: u32, enough: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for frame in frames {
            if bytes.len() >= enough {
                break;
            }
            let at = from.wrapping_add(bytes.len() as u32);
            let old = at.wrapping_sub(frame.seq).cast_signed();
            let Ok(old) = usize::try_from(old) else { break };
            bytes.extend(frame.payload().get(old..).unwrap_or(&[]));
        }
        bytes
    }

    /// Such bytes, which begin at `from`, as packets that say what the client has said since. Each is as long as
    /// `most` allows, but ends where a request begins (`cuts`, in order), if that is within it.
    pub fn renewed(&self, from: u32, bytes: &[u8], cuts: &[usize], most: usize, heard: &Heard) -> Vec<Self> {
        let most = most.max(JOINED_MIN);
        let mut renewed = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let cut = cuts.iter().copied().rfind(|cut| (at + 1..=at + most).contains(cut));
            let end = cut.unwrap_or(at + most).min(bytes.len());
            let payload = bytes.get(at..end).unwrap_or(&[]);
            renewed.extend(self.with(from.wrapping_add(at as u32), payload, false, heard));
            at = end;
        }
        renewed
    }

    /// The packet without its bytes before `seq`; `None` if nothing is left, no FIN either.
    pub fn from(self, seq: u32) -> Option<Self> {
        let old = seq.wrapping_sub(self.seq).cast_signed();
        match usize::try_from(old) {
            Err(_) | Ok(0) => Some(self),
            Ok(old) if old < self.payload().len() => self.after(seq),
            Ok(_) if self.is_fin() => Some(self),
            Ok(_) => None,
        }
    }

    /// TSval and TSecr.
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        let options = self.bytes.get(self.l4 + 20..self.payload_at)?;
        let at = timestamps_at(options)?;
        let word = |at| Some(u32::from_be_bytes(options.get(at..at + 4)?.try_into().ok()?));
        Some((word(at)?, word(at + 4)?))
    }

    /// Its acknowledgement alone, as the client might have sent it behind it.
    pub fn acknowledgement(&self) -> Option<Self> {
        let end = self.end();
        let mut bare = self.clone();
        bare.bytes.truncate(self.payload_at);
        bare.payload_end = self.payload_at;
        bare.seq = end;
        bare.bytes.get_mut(self.l4 + 4..self.l4 + 8)?.copy_from_slice(&end.to_be_bytes());
        *bare.bytes.get_mut(self.l4 + 13)? = ACK;
        finish(&mut bare.bytes)?;
        Some(bare)
    }

    /// Without its timestamps. While it was here others of the client may have overtaken it, which say a later time:
    /// the socket would drop it for that (RFC 7323 5.3). Linux takes it without.
    pub fn without_timestamps(mut self) -> Self {
        let options = self.bytes.get(self.l4 + 20..self.payload_at).unwrap_or(&[]);
        if let Some(at) = timestamps_at(options).map(|at| at + self.l4 + 18)
            && let Some(option) = self.bytes.get_mut(at..at + 10)
        {
            option.fill(1);
            let _ = finish(&mut self.bytes);
        }
        self
    }

    /// With the time that the client has said since, if it has: a socket that knows of that would drop the packet
    /// (RFC 7323 5.3).
    pub fn not_before(&self, heard: &Heard) -> Self {
        let mut new = self.clone();
        let options = self.bytes.get(self.l4 + 20..self.payload_at).unwrap_or(&[]);
        let place = timestamps_at(options).map(|at| at + self.l4 + 20);
        if let (Some(at), Some((value, echo)), Some((own, _))) = (place, heard.timestamps, self.timestamps())
            && value.wrapping_sub(own).cast_signed() > 0
            && let Some(option) = new.bytes.get_mut(at..at + 8)
        {
            let (times, echoes) = option.split_at_mut(4);
            times.copy_from_slice(&value.to_be_bytes());
            echoes.copy_from_slice(&echo.to_be_bytes());
            let _ = finish(&mut new.bytes);
        }
        new
    }

    /// As it leaves this node anew: sent by none of the nodes, with all its time to live. It has come here because
    /// the connection is this node's, so however often that happens, it does not go round in circles.
    pub fn made_ours(&self) -> Self {
        let mut ours = self.clone();
        if let Some(sender) = ours.bytes.get_mut(6..12) {
            sender.fill(0);
        }
        if self.l4 == L4_OF_V6 {
            if let Some(hop_limit) = ours.bytes.get_mut(L3 + 7) {
                *hop_limit = TIME_TO_LIVE;
            }
        } else if let Some(header) = ours.bytes.get_mut(L3..L4_OF_V4) {
            let word = |header: &[u8], at: usize| {
                u16::from_be_bytes([
                    header.get(at).copied().unwrap_or(0),
                    header.get(at + 1).copied().unwrap_or(0),
                ])
            };
            let old = word(header, 8);
            if let Some(ttl) = header.get_mut(8) {
                *ttl = TIME_TO_LIVE;
            }
            // RFC 1624: what was wrong before stays so.
            let sum = u32::from(!word(header, 10)) + u32::from(!old) + u32::from(word(header, 8));
            if let Some(checksum) = header.get_mut(10..12) {
                checksum.copy_from_slice(&fold(sum).to_be_bytes());
            }
        }
        ours
    }

    /// The sequence number behind its payload.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload().len() as u32)
    }

    /// Whether the client ends its direction with it.
    pub fn is_fin(&self) -> bool {
        self.bytes.get(self.l4 + 13).is_some_and(|flags| flags & FIN != 0)
    }

    /// What it acknowledges, and the window that it says.
    pub fn says(&self) -> Option<(u32, u16)> {
        let ack = self.bytes.get(self.l4 + 8..self.l4 + 12)?.try_into().ok()?;
        let window = self.bytes.get(self.l4 + 14..self.l4 + 16)?.try_into().ok()?;
        Some((u32::from_be_bytes(ack), u16::from_be_bytes(window)))
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
            let options = self.l4 + 20..self.payload_at;
            let times = [value.to_be_bytes(), echo.to_be_bytes()].concat();
            match timestamps_at(self.bytes.get(options.clone())?) {
                Some(at) => new.bytes.get_mut(options.start + at..)?.get_mut(..8)?.copy_from_slice(&times),
                // They were taken from it on its way, or its client says them in some packets alone.
                None => new.set_options([&[1, 1, 8, 10][..], &times].concat()),
            }
        }
        finish(&mut new.bytes)?;
        Some(new)
    }

    /// With these options alone, padded to full words.
    fn set_options(&mut self, options: Vec<u8>) {
        let (at, len) = (self.l4 + 20, options.len());
        self.bytes.splice(at..self.payload_at, options);
        if let Some(offset) = self.bytes.get_mut(self.l4 + 12) {
            *offset = *offset & 0xf | (((20 + len) / 4) as u8) << 4;
        }
        self.payload_end = self.payload_end + at + len - self.payload_at;
        self.payload_at = at + len;
    }

    /// The TCP payload.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload_at..self.payload_end).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet of this payload, with these TCP options.
    fn frame(options: &[u8], payload: &[u8]) -> Frame {
        let mut bytes = vec![0; 54];
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        bytes[16..18].copy_from_slice(&((40 + options.len() + payload.len()) as u16).to_be_bytes());
        (bytes[22], bytes[23], bytes[46], bytes[47]) = (9, 6, (5 + options.len() as u8 / 4) << 4, ACK);
        bytes.extend([options, payload].concat());
        Frame::parse(&bytes).expect("IPv4 and TCP")
    }

    #[test]
    fn nothing_is_lost_of_a_packet_without_timestamps() {
        let times = [&[1, 1, 8, 10][..], &[0, 0, 0, 5, 0, 0, 0, 6]].concat();
        let stripped = frame(&times, b"GET ").without_timestamps();
        let heard = Heard { ack: 3, window: 4, timestamps: Some((7, 8)) };
        for first in [stripped, frame(&[], b"GET "), frame(&[1, 1, 4, 2], b"GET "), frame(&times, b"GET ")] {
            assert!(first.timestamps().is_none_or(|own| own == (5, 6)));
            let renewed = first.renewed(9, b"GET / HTTP", &[], 1000, &heard);
            let [one] = &renewed[..] else { panic!("{renewed:?}") };
            let parsed = Frame::parse(&one.bytes).expect("IPv4 and TCP");
            assert_eq!(&parsed, one);
            assert_eq!((parsed.payload(), parsed.seq), (&b"GET / HTTP"[..], 9));
            assert_eq!((parsed.timestamps(), parsed.says()), (Some((7, 8)), Some((3, 4))));
        }
    }
}

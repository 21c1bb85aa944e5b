//! Where the headers of a frame of Ethernet, IP and TCP are, and their lengths and checksums. Pure.

pub(crate) const L3: usize = 14;
pub(crate) const L4_OF_V4: usize = L3 + 20;
pub(crate) const L4_OF_V6: usize = L3 + 40;
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

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

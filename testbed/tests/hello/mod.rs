//! ClientHellos of TLS 1.2 made by hand, of any length and in any records. A server answers with its
//! certificate in the clear.

/// A ClientHello to be.
#[derive(Clone, Debug)]
pub struct Hello {
    extensions: Vec<u8>,
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short enough").to_be_bytes(), bytes].concat()
}

impl Hello {
    /// One that names a server.
    pub fn new(name: &str) -> Self {
        let entry = [&[0][..], &long(name.as_bytes())].concat();
        Self::nameless().extension(0, &long(&entry))
    }

    /// One that names none.
    pub fn nameless() -> Self {
        let groups = long(&[0, 29, 0, 23]);
        let signatures = long(&[4, 3, 8, 4, 4, 1]);
        Self { extensions: Vec::new() }.extension(10, &groups).extension(13, &signatures)
    }

    /// With the protocols that the client would speak.
    pub fn alpn(self, names: &[&str]) -> Self {
        let list: Vec<u8> = names.iter().flat_map(|n| [&[n.len() as u8], n.as_bytes()].concat()).collect();
        self.extension(16, &long(&list))
    }

    /// Longer by so many bytes (RFC 7685).
    pub fn padded(&self, bytes: usize) -> Self {
        self.clone().extension(21, &vec![0; bytes])
    }

    fn extension(mut self, kind: u16, data: &[u8]) -> Self {
        self.extensions.extend(kind.to_be_bytes());
        self.extensions.extend(long(data));
        self
    }

    fn message(&self) -> Vec<u8> {
        // ECDHE with ECDSA and AES-GCM or ChaCha20.
        let suites = long(&[0xc0, 0x2b, 0xc0, 0x2c, 0xcc, 0xa9]);
        let body = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &long(&self.extensions)].concat();
        let length = u32::try_from(body.len()).expect("short enough").to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// In as few records as may be.
    pub fn bytes(&self) -> Vec<u8> {
        self.records(1 << 14)
    }

    /// In records of so many bytes.
    pub fn records(&self, of: usize) -> Vec<u8> {
        self.message().chunks(of).flat_map(|part| [&[22, 3, 1][..], &long(part)].concat()).collect()
    }
}

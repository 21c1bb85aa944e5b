//! The ClientHello itself, once it is whole: what routes look at, taken from among what they do not. Called
//! by the reader alone. It judges form where it reads, and leaves the meaning of all else to the server.

use std::collections::BTreeSet;

use crate::name::Name;
use crate::reason::HelloError;
use crate::vectors::Vectors;

/// What a ClientHello says that routes look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that the client asks for (`server_name`, RFC 6066 3); `None` when it names none.
    pub name: Option<Name>,
    /// The protocols that it would speak (`application_layer_protocol_negotiation`, RFC 7301).
    pub alpn: Protocols,
    /// Whether it carries `encrypted_client_hello` (RFC 9849): then `name` and `alpn` are those of the outer
    /// hello. They may be the true ones all the same: clients without a key send the extension
    /// with nothing in it (RFC 9849 6.2), so that it tells nothing.
    pub encrypted: bool,
}

/// Protocols by their ALPN names, the client's favourite first. Empty when the client offers none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// A well-formed ProtocolNameList, without its length.
    list: Vec<u8>,
}

const EXTENSION_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_ECH: u16 = 0xfe0d;
const NAME_TYPE_HOST: u8 = 0;
const U16_MAX: usize = u16::MAX as usize;

impl ClientHello {
    /// Reads the message's body (RFC 8446 4.1.2; the same in TLS 1.0 to 1.2, RFC 5246 7.4.1.2).
    pub(crate) fn read(body: &[u8]) -> Result<Self, HelloError> {
        let mut rest = Vectors(body);
        let _version = rest.u16()?;
        let _random = rest.bytes(32)?;
        let _session_id = rest.short(0..=32)?;
        let cipher_suites = rest.long(2..=U16_MAX - 1)?;
        if cipher_suites.len() % 2 != 0 {
            return Err(HelloError::Length);
        }
        let _compression_methods = rest.short(1..=255)?;
        let mut hello = Self::default();
        // Before TLS 1.3 there need not be any extensions; then there is not even their length.
        if !rest.is_empty() {
            hello.read_extensions(rest.long(0..=U16_MAX)?)?;
        }
        rest.end().map(|()| hello)
    }

    fn read_extensions(&mut self, extensions: &[u8]) -> Result<(), HelloError> {
        let mut seen = BTreeSet::new();
        let mut rest = Vectors(extensions);
        while !rest.is_empty() {
            let kind = rest.u16()?;
            let data = rest.long(0..=U16_MAX)?;
            if !seen.insert(kind) {
                return Err(HelloError::ExtensionTwice);
            }
            match kind {
                EXTENSION_NAME => self.name = host_name(data)?,
                EXTENSION_ALPN => self.alpn = Protocols::read(data)?,
                EXTENSION_ECH => self.encrypted = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The host name of a ServerNameList (RFC 6066 3). Names of other types, of which none exists, begin
/// with a length of two bytes too; they are passed over.
fn host_name(data: &[u8]) -> Result<Option<Name>, HelloError> {
    let mut list = Vectors(data);
    let mut names = Vectors(list.long(1..=U16_MAX)?);
    list.end()?;
    let mut seen = BTreeSet::new();
    let mut host = None;
    while !names.is_empty() {
        let kind = names.u8()?;
        let is_host = kind == NAME_TYPE_HOST;
        let name = names.long(usize::from(is_host)..=U16_MAX)?;
        if !seen.insert(kind) {
            return Err(HelloError::NameTwice);
        }
        if is_host {
            host = Some(Name::read(name).ok_or(HelloError::Name)?);
        }
    }
    Ok(host)
}

impl Protocols {
    /// Reads the extension's data (RFC 7301 3.1).
    fn read(data: &[u8]) -> Result<Self, HelloError> {
        let mut rest = Vectors(data);
        let list = rest.long(2..=U16_MAX)?;
        rest.end()?;
        let mut names = Vectors(list);
        while !names.is_empty() {
            names.short(1..=255)?;
        }
        Ok(Self { list: list.to_vec() })
    }

    /// Their names in the client's order: `h2`, `http/1.1` and the like, but any bytes are possible.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Vectors(&self.list);
        // What was read once can be read again, so that the end of the list is the only error.
        std::iter::from_fn(move || rest.short(1..=255).ok())
    }

    /// Whether the client offers this protocol.
    pub fn contains(&self, protocol: &[u8]) -> bool {
        self.iter().any(|offered| offered == protocol)
    }

    /// Whether the client offers none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

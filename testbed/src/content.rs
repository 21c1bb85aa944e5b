//! What is served: bodies that follow from their path alone, so that a client can check every byte
//! without the file, and an origin can serve any path without files. Pure but for [`DocRoot`].

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::scratch::Scratch;

/// Bodies are made of blocks of this many bytes. Each starts with its number: a block that is
/// missing, doubled or swapped is seen, as is one of another path.
const BLOCK: usize = 64 * 1024;

/// One thing that can be requested: a path, and the body that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content {
    path: String,
    size: u64,
}

impl Content {
    /// The content `name` of `size` bytes; its path is `/<name>.<size>`.
    pub fn new(name: &str, size: u64) -> Self {
        Self { path: format!("/{name}.{size}"), size }
    }

    /// The content that a path stands for, if it ends in a size.
    pub fn from_path(path: &str) -> Option<Self> {
        let (_, size) = path.rsplit_once('.')?;
        Some(Self { path: path.to_owned(), size: size.parse().ok()? })
    }

    /// The path to request, with its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The body's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The body's bytes, piece by piece.
    pub(crate) fn body(&self) -> Body {
        let length = usize::try_from(self.size).map_or(BLOCK, |size| size.min(BLOCK));
        let mut state = seed(&self.path);
        let mut block: Vec<u8> = Vec::with_capacity(length + 8);
        while block.len() < length {
            block.extend_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        block.truncate(length);
        let head = splitmix(&mut state);
        Body { block, head, position: 0, size: self.size }
    }

    /// Checks a part of a body that arrives piece by piece.
    pub(crate) fn check_range(&self, part: Range<u64>) -> Check {
        let mut body = self.body();
        body.cut(part);
        Check { body, wrong_at: None }
    }

    /// Whether these bytes are the body.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let mut check = self.check_range(0..self.size);
        check.push(bytes);
        check.wrong_at().is_none()
    }

    /// The body's SHA-256 in lower-case hexadecimal, for a comparison with another tool's.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        let mut body = self.body();
        while let Some(piece) = body.next(BLOCK) {
            hash.update(piece);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the body.
    fn write_to(&self, out: impl Write) -> std::io::Result<()> {
        let mut out = BufWriter::new(out);
        let mut body = self.body();
        while let Some(piece) = body.next(BLOCK) {
            out.write_all(piece)?;
        }
        out.flush()
    }
}

/// The bytes of a [`Content`], made as they are asked for.
#[derive(Debug)]
pub(crate) struct Body {
    block: Vec<u8>,
    head: u64,
    position: u64,
    size: u64,
}

impl Body {
    /// Leaves only this part of it.
    fn cut(&mut self, part: Range<u64>) {
        self.size = part.end.min(self.size);
        self.position = part.start.min(self.size);
        self.number();
    }

    /// Writes the number of the block that the position is in.
    fn number(&mut self) {
        let head = (self.head ^ (self.position / BLOCK as u64)).to_le_bytes();
        let length = self.block.len().min(head.len());
        self.block[..length].copy_from_slice(&head[..length]);
    }

    /// The next bytes, at most `max` of them; `None` at the end.
    pub(crate) fn next(&mut self, max: usize) -> Option<&[u8]> {
        let left = self.size - self.position;
        if left == 0 || max == 0 {
            return None;
        }
        let start = (self.position % BLOCK as u64) as usize;
        if start == 0 {
            self.number();
        }
        let length = max.min(BLOCK - start).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.position += length as u64;
        Some(&self.block[start..start + length])
    }
}

/// A comparison of arriving bytes with the right ones.
#[derive(Debug)]
pub(crate) struct Check {
    body: Body,
    wrong_at: Option<u64>,
}

impl Check {
    /// Compares the next bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while self.wrong_at.is_none() && !bytes.is_empty() {
            let before = self.body.position;
            let right = self.body.next(bytes.len()).unwrap_or_default();
            let (now, later) = bytes.split_at(right.len());
            if right.is_empty() || now != right {
                let same = now.iter().zip(right).take_while(|(a, b)| a == b).count();
                self.wrong_at = Some(before + same as u64);
            }
            bytes = later;
        }
    }

    /// Where the first wrong byte was, or where the body ended before its time; `None` if all of
    /// it was right.
    pub(crate) fn wrong_at(&self) -> Option<u64> {
        self.wrong_at.or((self.body.position < self.body.size).then_some(self.body.position))
    }
}

/// FNV-1a: a seed for each path.
fn seed(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA'14): enough to make bodies differ everywhere.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A directory of files for web servers.
#[derive(Debug)]
pub struct DocRoot {
    path: PathBuf,
    _own: Option<Scratch>,
}

impl DocRoot {
    /// The directory that all tests share and that stays, so that large files are written once.
    ///
    /// # Panics
    /// When `/tmp` cannot be written to.
    #[track_caller]
    pub fn shared() -> Self {
        // Part of the name: the version of the bodies' making. A change must not meet old files.
        let path = PathBuf::from("/tmp/baton-testbed-content-1");
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {path:?}: {error}"));
        Self { path, _own: None }
    }

    /// A directory of its own, gone when dropped: for a test that spoils files.
    #[track_caller]
    pub fn private() -> Self {
        let own = Scratch::new("files");
        Self { path: own.path().to_owned(), _own: Some(own) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that is not a content, such as a page.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path.join(name);
        std::fs::write(&file, bytes).unwrap_or_else(|error| panic!("cannot write {file:?}: {error}"));
        file
    }

    /// Writes the file of a content, unless it is there, and returns where it is.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn add(&self, content: &Content) -> PathBuf {
        let file = self.path.join(content.path().trim_start_matches('/'));
        if !file.exists() {
            let written = write_whole(&file, content);
            assert!(written.is_ok(), "cannot write {file:?}: {written:?}");
        }
        file
    }
}

/// Writes aside and renames: tests that run at once never see half a file.
fn write_whole(file: &Path, content: &Content) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let aside = file.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    content.write_to(File::create(&aside)?)?;
    std::fs::rename(&aside, file)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Content};

    fn bytes(content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        content.write_to(&mut out).expect("a vector takes all");
        out
    }

    fn wrong_at(content: &Content, pieces: &[&[u8]]) -> Option<u64> {
        let mut check = content.check_range(0..content.size());
        pieces.iter().for_each(|piece| check.push(piece));
        check.wrong_at()
    }

    #[test]
    fn a_path_stands_for_its_body() {
        for size in [0, 1, 7, 9, BLOCK as u64 - 1, BLOCK as u64, BLOCK as u64 + 3, 300_000] {
            let content = Content::new("dir/x", size);
            assert_eq!(Content::from_path(content.path()), Some(content.clone()));
            let body = bytes(&content);
            assert_eq!(body.len() as u64, size);
            assert_eq!(wrong_at(&content, &[&body]), None);
            for cut in [0, body.len() / 3, body.len()] {
                assert_eq!(wrong_at(&content, &[&body[..cut], &body[cut..]]), None, "{size} cut at {cut}");
            }
        }
        assert_eq!(Content::from_path("/index.html"), None);
    }

    #[test]
    fn parts_are_those_of_the_whole() {
        let content = Content::new("x", 2 * BLOCK as u64 + 77);
        let body = bytes(&content);
        for part in [0..0, 0..1, 5..9, 65_530..65_540, 70_000..body.len(), 0..body.len()] {
            let mut check = content.check_range(part.start as u64..part.end as u64);
            check.push(&body[part.clone()]);
            assert_eq!(check.wrong_at(), None, "{part:?}");
        }
        let mut check = content.check_range(100..200);
        check.push(&body[101..201]);
        assert_eq!(check.wrong_at(), Some(100));
    }

    #[test]
    fn every_kind_of_damage_is_found_where_it_is() {
        let content = Content::new("x", 3 * BLOCK as u64);
        let body = bytes(&content);
        let mut flipped = body.clone();
        flipped[100_000] ^= 1;
        assert_eq!(wrong_at(&content, &[&flipped]), Some(100_000));
        assert_eq!(wrong_at(&content, &[&body[..5000]]), Some(5000), "cut short");
        assert_eq!(wrong_at(&content, &[&body, b"x"]), Some(body.len() as u64), "too long");
        assert_eq!(wrong_at(&content, &[&body[..BLOCK], &body]), Some(BLOCK as u64), "a block twice");
        let other = bytes(&Content::new("y", 3 * BLOCK as u64));
        assert!(wrong_at(&content, &[&other]).is_some_and(|at| at < 8), "another path's body");
    }
}

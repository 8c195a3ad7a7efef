//! SHA-256 of files.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::data::hex;

/// SHA-256 of files, one behind the other, in hexadecimal.
pub(super) fn sha256(files: &[impl AsRef<Path>]) -> std::io::Result<String> {
    let mut sink = Hashing::new(std::io::sink());
    for path in files {
        std::io::copy(&mut File::open(path)?, &mut sink)?;
    }
    Ok(sink.hex())
}

/// A writer that takes the SHA-256 of what passes through it.
pub(super) struct Hashing<W> {
    pub inner: W,
    state: Sha256,
}

impl<W: Write> Hashing<W> {
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            state: Sha256::new(),
        }
    }

    pub fn hex(self) -> String {
        hex(&self.state.finalize())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.state.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::hash;

    #[test]
    fn hashes_are_sha256() {
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, appendix B.1
        );
    }
}

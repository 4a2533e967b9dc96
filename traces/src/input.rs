//! Opens what a trace is stored in: gzip and zstd by their magic bytes, text checked before anybody parses it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use crate::error::{Place, TraceError};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET: &[u8] = b"PAR1";
/// How much is looked at before parsing; a tar header needs 512 bytes.
const HEAD: usize = 8 << 10;

/// The bytes of a trace and what its messages call it.
#[derive(Clone, Debug)]
pub(crate) struct Source<'a> {
    /// For messages: a path or the name of a shipped trace.
    pub(crate) name: Cow<'a, Path>,
    bytes: Bytes<'a>,
}

#[derive(Clone, Debug)]
enum Bytes<'a> {
    File(Cow<'a, Path>),
    Shipped(&'static [u8]),
}

/// What the decompressed bytes are.
pub(crate) enum Content {
    /// Text in UTF-8, as far as its head shows.
    Text(Box<dyn BufRead>),
    /// Parquet.
    Parquet(Cursor<Vec<u8>>),
    /// A tar archive.
    Tar(Box<dyn BufRead>),
}

impl<'a> Source<'a> {
    pub(crate) fn file(path: &'a Path) -> Source<'a> {
        Source { name: path.into(), bytes: Bytes::File(path.into()) }
    }

    pub(crate) fn owned(path: std::path::PathBuf) -> Source<'static> {
        Source { name: path.clone().into(), bytes: Bytes::File(path.into()) }
    }

    pub(crate) fn shipped(name: &'a str, bytes: &'static [u8]) -> Source<'a> {
        Source { name: Path::new(name).into(), bytes: Bytes::Shipped(bytes) }
    }

    /// Opens, decompresses and looks at the head.
    pub(crate) fn open(&self) -> Result<Content, TraceError> {
        let raw: Box<dyn BufRead> = match &self.bytes {
            Bytes::File(path) => Box::new(BufReader::new(File::open(path).map_err(|e| TraceError::io(path, e))?)),
            Bytes::Shipped(bytes) => Box::new(Cursor::new(*bytes)),
        };
        let io = |e| TraceError::io(&self.name, e);
        let plain = decompressed(raw).map_err(io)?;
        let (head, mut reader) = peeked(plain).map_err(io)?;
        if head.starts_with(PARQUET) {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(io)?;
            return Ok(Content::Parquet(Cursor::new(bytes)));
        }
        if head.get(257..262) == Some(b"ustar") {
            return Ok(Content::Tar(reader));
        }
        if head.iter().all(u8::is_ascii_whitespace) && head.len() < HEAD {
            return Err(TraceError::Empty { place: Place::file(&self.name), detail: "; the file is empty".into() });
        }
        check_text(&head, &self.name)?;
        if head.starts_with(b"\xef\xbb\xbf") {
            reader.consume(3);
        }
        Ok(Content::Text(reader))
    }
}

fn decompressed(raw: Box<dyn BufRead>) -> std::io::Result<Box<dyn BufRead>> {
    let (head, reader) = peeked(raw)?;
    Ok(if head.starts_with(GZIP) {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader)))
    } else if head.starts_with(ZSTD) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(reader)?))
    } else {
        reader
    })
}

/// The first bytes, and a reader that still has them.
fn peeked(mut reader: Box<dyn BufRead>) -> std::io::Result<(Vec<u8>, Box<dyn BufRead>)> {
    let mut head = Vec::with_capacity(HEAD);
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let again = Cursor::new(head.clone()).chain(reader);
    Ok((head, Box::new(again)))
}

/// Is it text? Byte order marks of UTF-16 and NUL bytes say no; other encodings show later, at their line.
fn check_text(head: &[u8], file: &Path) -> Result<(), TraceError> {
    let place = || Place::file(file);
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(TraceError::Encoding {
            place: place(),
            found: "the text is encoded in UTF-16".into(),
            advice: "convert it to UTF-8, for instance with `iconv -f UTF-16 -t UTF-8`",
        });
    }
    if let Some(at) = head.iter().position(|byte| *byte == 0) {
        return Err(TraceError::Encoding {
            place: place(),
            found: format!("byte {at} is NUL: this is not a text file"),
            advice: "a trace is CSV, JSONL or Parquet, plain or compressed with gzip or zstd, or a ServeGen archive",
        });
    }
    Ok(())
}

/// What to do about bytes that are not UTF-8.
pub(crate) const TO_UTF8: &str = "convert the file to UTF-8, for instance with `iconv -f LATIN1 -t UTF-8`";

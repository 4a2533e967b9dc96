//! The logs of a part of a run, and who was there: in memory, or put away in a file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use crate::ReportError;
use crate::recorder::nameless::Nameless;

/// What is over, and not counted yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chapter {
    /// By replica: the gaps of its steps, buckets in the lower bits, how often in the upper ones.
    pub(super) logs: Vec<Vec<u32>>,
    pub(super) stays: Vec<Stay>,
    pub(super) own: Vec<Own>,
}

/// A sequence was in the batch of a replica, for a part of its log and so many picoseconds of gaps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) sum: u64,
    pub(super) request: u32,
    pub(super) tenant: u32,
    pub(super) adapter: u32,
    pub(super) part: Part,
}

/// A part of a replica's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) replica: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// A gap that a sequence shares with nobody.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) gap: u64,
    pub(super) request: u32,
    pub(super) tenant: u32,
    pub(super) adapter: u32,
}

/// Chapters in a file.
pub(super) struct Chapters {
    file: Nameless,
    len: usize,
}

impl Chapters {
    /// In a file in `folder`, once there is one.
    pub(super) fn in_folder(folder: &Path) -> Chapters {
        Chapters { file: Nameless::in_folder(folder), len: 0 }
    }

    /// Puts the next chapter away.
    pub(super) fn write(&mut self, chapter: &Chapter) -> Result<(), ReportError> {
        self.append(chapter).map_err(ReportError::io("keep token gaps in", &self.file.folder))
    }

    fn append(&mut self, chapter: &Chapter) -> io::Result<()> {
        let mut file = BufWriter::new(self.file.open()?);
        chapter.write(&mut file)?;
        self.len += 1;
        file.flush()
    }

    /// Shows every chapter, in their order.
    pub(super) fn each(&mut self, look: impl FnMut(&Chapter)) -> Result<(), ReportError> {
        let Some(file) = &mut self.file.file else { return Ok(()) };
        read_each(file, self.len, look).map_err(ReportError::io("read token gaps in", &self.file.folder))
    }
}

fn read_each(file: &mut File, chapters: usize, mut look: impl FnMut(&Chapter)) -> io::Result<()> {
    file.rewind()?;
    let mut file = BufReader::new(file);
    for _ in 0..chapters {
        look(&Chapter::read(&mut file)?);
    }
    Ok(())
}

impl Chapter {
    /// Lists, each behind its length.
    fn write(&self, file: &mut impl Write) -> io::Result<()> {
        write_list(file, &self.logs, |file, log| {
            write_list(file, log, |file, entry| file.write_all(&entry.to_le_bytes()))
        })?;
        write_list(
            file,
            &self.stays,
            |file, Stay { sum, request, tenant, adapter, part: Part { replica, from, to } }| {
                let [low, high] = halves(*sum);
                write_numbers(file, [low, high, *request, *tenant, *adapter, *replica, *from, *to])
            },
        )?;
        write_list(file, &self.own, |file, Own { gap, request, tenant, adapter }| {
            let [low, high] = halves(*gap);
            write_numbers(file, [low, high, *request, *tenant, *adapter])
        })
    }

    fn read(file: &mut impl Read) -> io::Result<Chapter> {
        let logs = read_list(file, |file| read_list(file, |file| read_numbers(file).map(|[entry]| entry)))?;
        let stays = read_list(file, |file| {
            let [low, high, request, tenant, adapter, replica, from, to] = read_numbers(file)?;
            Ok(Stay { sum: whole(low, high), request, tenant, adapter, part: Part { replica, from, to } })
        })?;
        let own = read_list(file, |file| {
            let [low, high, request, tenant, adapter] = read_numbers(file)?;
            Ok(Own { gap: whole(low, high), request, tenant, adapter })
        })?;
        Ok(Chapter { logs, stays, own })
    }
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn write_numbers<const N: usize>(file: &mut impl Write, numbers: [u32; N]) -> io::Result<()> {
    file.write_all(numbers.map(u32::to_le_bytes).as_flattened())
}

fn read_numbers<const N: usize>(file: &mut impl Read) -> io::Result<[u32; N]> {
    let mut bytes = [[0; 4]; N];
    file.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u32::from_le_bytes))
}

fn write_list<W: Write, T>(file: &mut W, list: &[T], each: impl Fn(&mut W, &T) -> io::Result<()>) -> io::Result<()> {
    write_numbers(file, halves(list.len() as u64))?;
    list.iter().try_for_each(|item| each(file, item))
}

fn read_list<R: Read, T>(file: &mut R, each: impl Fn(&mut R) -> io::Result<T>) -> io::Result<Vec<T>> {
    let [low, high] = read_numbers(file)?;
    (0..whole(low, high)).map(|_| each(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_come_back_as_they_were_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let chapter = |n: u32| Chapter {
            logs: (0..n).map(|log| (0..log).map(|entry| u32::MAX - entry).collect()).collect(),
            stays: (0..2 * n)
                .map(|i| Stay {
                    sum: u64::MAX - u64::from(i),
                    request: i + 5,
                    tenant: i,
                    adapter: i + 1,
                    part: Part { replica: i + 2, from: i + 3, to: i + 4 },
                })
                .collect(),
            own: (0..3 * n)
                .map(|i| Own { gap: 1 << 40 | u64::from(i), request: i + 2, tenant: i, adapter: i + 1 })
                .collect(),
        };
        let mut chapters = Chapters::in_folder(folder.path());
        chapters.each(|_| panic!("there is none")).unwrap();
        (0..5).for_each(|n| chapters.write(&chapter(n)).unwrap());
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "the file has no name");
        for _ in 0..2 {
            let mut n = 0;
            chapters
                .each(|found| {
                    assert_eq!(*found, chapter(n));
                    n += 1;
                })
                .unwrap();
            assert_eq!(n, 5);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let refused = Chapters::in_folder(Path::new("/nowhere/at/all")).write(&Chapter::default());
        assert!(refused.unwrap_err().to_string().contains("/nowhere/at/all"));
    }
}

//! A disk in memory that keeps apart what was synced and what was not, and fails as disks do.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{self, Cursor, Read, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use orchestra_core::rng::Entropy;

use super::disk::{Disk, Media};

/// How much a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk of one directory; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedDisk(Arc<Mutex<Content>>);

/// What a disk and the cache before it hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// By number; one that lost its last name stays.
    files: Vec<FileContent>,
    /// The file of each name, for those that ask now.
    names: BTreeMap<String, usize>,
    /// The file of each name as of the last sync of names.
    durable_names: BTreeMap<String, usize>,
    /// What was done to names since.
    unsynced: Vec<NameChange>,
    /// The disk after each step since this was asked for.
    history: Option<Vec<Content>>,
    /// How many bytes there is room for.
    capacity: Option<usize>,
    /// How many files there may be.
    files_max: Option<usize>,
    faults: Faults,
}

#[derive(Clone, Debug, Default)]
struct FileContent {
    /// What those see who ask now.
    written: Vec<u8>,
    /// Which of these bytes the next sync brings to the disk; none that one brought, or failed to, before.
    dirty: Vec<bool>,
    /// What the disk has.
    synced: Vec<u8>,
}

/// Gives a name to a file, or takes it from whichever has it.
type NameChange = Vec<(String, Option<usize>)>;

/// What is to go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// After how many more syncs, of files or names, one fails.
    pub(super) failed_sync: Option<u64>,
    /// Whether truncating fails.
    pub(super) truncate: bool,
}

/// How much of what was not synced a crash leaves.
#[derive(Clone, Debug)]
pub(super) enum Crash {
    /// All of it, as if it had just been synced.
    KeepAll,
    /// Nothing.
    DropAll,
    /// All names as they were, nothing else.
    KeepNames,
    /// Of each file some beginning, or a hole and then some; of the names some changes.
    Tear(Entropy),
}

impl SimulatedDisk {
    pub(super) fn holding(content: Content) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }

    /// Makes room for so many bytes in all, or for any number.
    pub(super) fn resize(&self, capacity: Option<usize>) {
        self.lock().capacity = capacity;
    }

    /// Allows for no more files than there are, or for any number.
    pub(super) fn limit_files(&self, limited: bool) {
        let mut content = self.lock();
        content.files_max = limited.then_some(content.names.len());
    }

    /// How many bytes the files take.
    pub(super) fn used(&self) -> usize {
        self.lock().used()
    }

    pub(super) fn fail(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many steps have been taken since [`Content::recorded`].
    pub(super) fn steps(&self) -> usize {
        self.lock().history.as_ref().map_or(0, Vec::len)
    }

    /// The disk after each step.
    pub(super) fn history(&self) -> Vec<Content> {
        self.lock().history.clone().unwrap_or_default()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no holder panics")
    }
}

impl Content {
    /// The same disk, which keeps from now on what it holds after each step.
    pub(super) fn recorded(self) -> Self {
        Self { history: Some(Vec::new()), ..self }
    }

    /// What is left after a crash, all of it durable, on a disk with room for more.
    pub(super) fn after(&self, crash: &Crash) -> Self {
        let names = match crash {
            Crash::DropAll => self.durable_names.clone(),
            Crash::KeepAll | Crash::KeepNames => self.names.clone(),
            Crash::Tear(entropy) => {
                let mut names = self.durable_names.clone();
                for change in self.unsynced.iter().filter(|_| entropy.next_u64() % 2 == 0) {
                    apply(change, &mut names);
                }
                names
            }
        };
        let files = self.files.iter().map(|file| file.after(crash)).collect();
        Self { files, durable_names: names.clone(), names, ..Self::default() }
    }

    /// What the next process sees after this one is killed, while the machine goes on: nothing more is durable.
    pub(super) fn after_kill(&self) -> Self {
        Self { history: None, faults: Faults::default(), ..self.clone() }
    }

    fn used(&self) -> usize {
        self.names.values().map(|number| self.files[*number].written.len()).sum()
    }

    fn step(&mut self) {
        if let Some(mut history) = self.history.take() {
            history.push(self.clone());
            self.history = Some(history);
        }
    }

    fn rename(&mut self, change: NameChange) {
        apply(&change, &mut self.names);
        self.unsynced.push(change);
        self.step();
    }

    fn number(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Brings a file to the disk, or fails to; then the cache takes what it has for clean, so that no later sync does.
    fn sync(&mut self, number: usize, fails: bool) -> io::Result<()> {
        let file = &mut self.files[number];
        if fails {
            file.dirty.fill(false);
        } else {
            file.sync();
        }
        self.step();
        if fails { Err(io::Error::other("a dead sector")) } else { Ok(()) }
    }

    /// Whether the next sync fails.
    fn fails_sync(&mut self) -> bool {
        let left = self.faults.failed_sync;
        self.faults.failed_sync = left.and_then(|left| left.checked_sub(1));
        left == Some(0)
    }
}

fn apply(change: &NameChange, names: &mut BTreeMap<String, usize>) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

impl FileContent {
    fn append(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        self.dirty.resize(self.written.len(), true);
    }

    /// What the disk has after a sync: nothing of what an earlier one failed to bring there.
    fn flushed(&self) -> Vec<u8> {
        let mut disk = self.synced.clone();
        disk.resize(self.written.len(), 0);
        let dirty = disk.iter_mut().zip(&self.written).zip(&self.dirty).filter(|(_, dirty)| **dirty);
        dirty.for_each(|((synced, written), _)| *synced = *written);
        disk
    }

    fn sync(&mut self) {
        self.synced = self.flushed();
        self.dirty.fill(false);
    }

    fn after(&self, crash: &Crash) -> Self {
        let left = match crash {
            Crash::KeepAll => self.flushed(),
            Crash::DropAll | Crash::KeepNames => self.synced.clone(),
            Crash::Tear(entropy) => self.torn(entropy),
        };
        Self { written: left.clone(), dirty: vec![false; left.len()], synced: left }
    }

    /// What was synced, and of what was appended since some beginning, some sectors and then zeros, or the other way round.
    fn torn(&self, entropy: &Entropy) -> Vec<u8> {
        let flushed = self.flushed();
        let Some(appended) = flushed.strip_prefix(&self.synced[..]) else {
            return if entropy.next_u64().is_multiple_of(2) { flushed } else { self.synced.clone() };
        };
        let cut = usize::try_from(entropy.next_u64() % (appended.len() as u64 + 1)).expect("no longer than a file");
        let sector = (self.synced.len() + cut) / SECTOR_BYTES * SECTOR_BYTES;
        let (head, tail) = appended.split_at(sector.saturating_sub(self.synced.len()));
        let zeros = |len| vec![0; len];
        match entropy.next_u64() % 4 {
            0 => [&self.synced, &appended[..cut]].concat(),
            1 => [&self.synced, head, &zeros(tail.len())].concat(),
            2 => [&self.synced, &zeros(head.len())[..], tail].concat(),
            _ => self.synced.clone(),
        }
    }
}

impl Disk for SimulatedDisk {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let content = self.lock();
        let bytes = content.files[content.number(name)?].written.clone();
        let len = bytes.len() as u64;
        Ok((Box::new(Cursor::new(bytes)), len))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Media>> {
        let mut content = self.lock();
        if content.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if content.files_max.is_some_and(|max| content.names.len() >= max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = content.files.len();
        content.files.push(FileContent::default());
        content.rename(vec![(name.to_owned(), Some(number))]);
        Ok(Box::new(Handle { disk: self.clone(), number }))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Media>> {
        let number = self.lock().number(name)?;
        Ok(Box::new(Handle { disk: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut content = self.lock();
        let number = content.number(from)?;
        content.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(number))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut content = self.lock();
        content.number(name)?;
        content.rename(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut content = self.lock();
        if content.fails_sync() {
            return Err(io::Error::other("a dead sector"));
        }
        content.durable_names = content.names.clone();
        content.unsynced.clear();
        content.step();
        Ok(())
    }
}

/// A file of a [`SimulatedDisk`] that is written to at its end.
struct Handle {
    disk: SimulatedDisk,
    number: usize,
}

impl Write for Handle {
    /// Takes what there is room for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut content = self.disk.lock();
        let room = content.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(content.used()));
        let taken = &bytes[..bytes.len().min(room)];
        if taken.is_empty() && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.files[self.number].append(taken);
        content.step();
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Media for Handle {
    fn sync(&mut self) -> io::Result<()> {
        let mut content = self.disk.lock();
        let fails = content.fails_sync();
        content.sync(self.number, fails)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut content = self.disk.lock();
        if content.faults.truncate {
            return Err(io::Error::other("a dead sector"));
        }
        let len = usize::try_from(len).expect("no longer than a file");
        let file = &mut content.files[self.number];
        file.written.truncate(len);
        file.dirty.truncate(len);
        content.step();
        Ok(())
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        Ok(self.disk.lock().names.get(name) == Some(&self.number))
    }
}

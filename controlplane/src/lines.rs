//! Logs of lines: a thread writes, the daemon never waits for it. What it cannot take is counted as lost.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Lines that may wait for the disk.
const QUEUE: usize = 65_536;
/// Lines written between two looks at whether the file was moved away.
const CHUNK: usize = 4096;

/// Lines that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Too many waited for the disk.
    pub full: u64,
    /// The disk refused them.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    full: AtomicU64,
    failed: AtomicU64,
}

/// The way to the thread that writes what `T` says.
#[derive(Clone, Debug)]
pub struct LineLog<T> {
    lines: SyncSender<Box<T>>,
    lost: Arc<Counts>,
}

impl<T: Send + 'static> LineLog<T> {
    /// Begins to write to `path`, which is opened again whenever somebody moved it away. `line` makes a line without
    /// its end; `name` is the thread's.
    ///
    /// # Errors
    /// If it cannot be opened now, or there is no thread.
    pub fn start(path: &Path, name: &str, line: fn(&T) -> String) -> std::io::Result<Self> {
        let file = open(path)?;
        let (lines, incoming) = sync_channel(QUEUE);
        let lost = Arc::new(Counts::default());
        let (path, counts) = (path.to_owned(), Arc::clone(&lost));
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || write(file, path, &incoming, line, &counts.failed))?;
        Ok(Self { lines, lost })
    }

    /// Has a line written. `false` if it is lost.
    pub fn note(&self, line: Box<T>) -> bool {
        match self.lines.try_send(line) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.full.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> Lost {
        Lost {
            full: self.lost.full.load(Ordering::Relaxed),
            failed: self.lost.failed.load(Ordering::Relaxed),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).mode(0o640).open(path)
}

fn write<T>(
    mut file: File,
    path: PathBuf,
    incoming: &Receiver<Box<T>>,
    line: fn(&T) -> String,
    lost: &AtomicU64,
) {
    let mut text = String::new();
    while let Ok(first) = incoming.recv() {
        text.clear();
        let mut count = 0;
        for noted in std::iter::once(first).chain(incoming.try_iter().take(CHUNK)) {
            text.push_str(&line(&noted));
            text.push('\n');
            count += 1;
        }
        if moved(&file, &path)
            && let Ok(again) = open(&path)
        {
            file = again;
        }
        if let Err(error) = file.write_all(text.as_bytes()) {
            lost.fetch_add(count, Ordering::Relaxed);
            tracing::error!(path = %path.display(), %error, "a log could not be written");
        }
    }
}

fn moved(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) != (there.dev(), there.ino()),
        _ => true,
    }
}

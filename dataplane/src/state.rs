//! The directory of the workers' state files. It is this process's alone while it runs; what it mounts is nothing:
//! where it lies was made ready by whoever installed us.

use crate::failure::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags, fstat, fstatfs};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use turnpike_shm::memory::{HUGE, Memory};

/// File system types.
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// The directory. Files that are left in it when this goes are removed with it: nobody takes them over, and they hold
/// memory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    huge: bool,
    /// Locked, so that no other process does as if these files were of a dead one.
    #[expect(dead_code, reason = "holds the lock")]
    lock: OwnedFd,
}

impl Directory {
    /// Makes the directory if it is not there, checks whose it is and where it lies (on hugetlbfs if `huge`), and
    /// removes what a former process left in it. To be done before memory is taken: what was left holds some.
    ///
    /// # Errors
    /// Says what is wrong with it and what to do.
    pub fn open(path: &Path, huge: bool) -> Result<Self, Failure> {
        let failed = |why: String| Failure::State { path: path.to_owned(), why };
        let refused =
            |doing: &'static str| move |error: io::Error| failed(format!("cannot {doing}: {error}"));
        make(path).map_err(refused("make it"))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| refused("open it as a directory")(error.into()))?;
        let stat = fstat(&lock).map_err(|error| refused("look at it")(error.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(failed(
                "it is another user's, or open to others: remove it, it is made anew with mode 0700"
                    .to_owned(),
            ));
        }
        let system = fstatfs(&lock).map_err(|error| refused("look at it")(error.into()))?;
        let page = u64::try_from(system.f_bsize).unwrap_or(0);
        match (system.f_type as u64, huge) {
            // DPDK locks the root of the file system while it starts: it would wait for this process for ever.
            (HUGETLBFS, true) if page == HUGE as u64 && is_mounted(path) => {
                return Err(failed(
                    "it is where a hugetlbfs is mounted: name a directory below it".to_owned(),
                ));
            }
            (HUGETLBFS, true) if page == HUGE as u64 => {}
            (HUGETLBFS, true) => {
                return Err(failed(format!(
                    "its hugetlbfs has pages of {} MiB, and those of 2 MiB are needed: mount -t hugetlbfs -o \
                     pagesize=2M none DIRECTORY, and name a directory there as dataplane.state",
                    page >> 20
                )));
            }
            (TMPFS, false) => {}
            (_, true) => {
                return Err(failed(
                    "it is not on hugetlbfs: mount -t hugetlbfs -o pagesize=2M none /dev/hugepages (systemd does \
                     that by itself: dev-hugepages.mount), name a directory on a hugetlbfs as dataplane.state, or \
                     set no_huge"
                        .to_owned(),
                ));
            }
            (_, false) => {
                return Err(failed(
                    "with no_huge it has to be on tmpfs, such as /dev/shm: on a disk every flow would be written \
                     there"
                        .to_owned(),
                ));
            }
        }
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            failed(
                "another turnpike-dataplane uses it: stop that, or give each its own dataplane.state"
                    .to_owned(),
            )
        })?;
        let directory = Self { path: path.to_owned(), huge, lock };
        directory.clear().map_err(refused("remove what a former process left there"))?;
        Ok(directory)
    }

    /// Where to make the memory of a worker's flows.
    pub fn file(&self, worker: u8) -> StateFile {
        StateFile { path: self.path.join(format!("worker-{worker}")), huge: self.huge }
    }

    fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            // Nothing else of the operator's, who may have named a directory that has other uses.
            if name.to_str().is_some_and(|name| name.starts_with("worker-")) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether something is mounted at a directory.
fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|it| it.dev()).ok();
    device(path) != device(&path.join(".."))
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!("state files stay in {}: {error}", self.path.display());
        }
    }
}

/// Where a worker's flows lie.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    huge: bool,
}

impl StateFile {
    /// Takes the memory, on the node of the calling thread. The file is to be read by the control plane.
    ///
    /// # Errors
    /// If there is not enough of it.
    pub fn take(&self, bytes: usize) -> io::Result<(Memory, File)> {
        Memory::file(&self.path, bytes, self.huge)
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory that is this user's alone, and those above it.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory on a tmpfs: every Linux has this one.
    fn memory() -> tempfile::TempDir {
        tempfile::TempDir::new_in("/dev/shm").unwrap()
    }

    #[test]
    fn one_process_at_a_time_and_nothing_stays() {
        let shm = memory();
        let path = shm.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(path.join("worker-7"), "of a former process").unwrap();
        std::fs::write(path.join("other"), "of the operator").unwrap();
        let directory = Directory::open(&path, false).unwrap();
        let names = || std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names().collect::<Vec<_>>(), ["other"]);
        let error = Directory::open(&path, false).unwrap_err().to_string();
        assert!(error.contains("another turnpike-dataplane uses it"), "{error}");
        let (_memory, file) = directory.file(0).take(5).unwrap();
        let mode = std::fs::metadata(path.join("worker-0")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, file.metadata().unwrap().len()), (0o600, HUGE as u64));
        drop(directory);
        assert_eq!(names().collect::<Vec<_>>(), ["other"]);
        assert!(Directory::open(&path, false).is_ok());
    }

    #[test]
    fn it_is_ours_alone_and_in_memory() {
        let shm = memory();
        let made = shm.path().join("a").join("b");
        drop(Directory::open(&made, false).unwrap());
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);

        std::fs::set_permissions(&made, PermissionsExt::from_mode(0o750)).unwrap();
        let error = Directory::open(&made, false).unwrap_err().to_string();
        assert!(error.contains("open to others"), "{error}");

        let link = shm.path().join("link");
        std::os::unix::fs::symlink(shm.path(), &link).unwrap();
        assert!(Directory::open(&link, false).is_err(), "a link is no directory of ours");

        let error = Directory::open(&shm.path().join("c"), true).unwrap_err().to_string();
        assert!(error.contains("not on hugetlbfs") && error.contains("mount -t hugetlbfs"), "{error}");

        let error = Directory::open(Path::new("/proc/self/state"), false).unwrap_err().to_string();
        assert!(error.contains("dataplane.state") && error.contains("/proc/self/state"), "{error}");
    }
}

//! The environment abstraction layer: DPDK's memory, buses and threads, once a process.

use crate::error::{Errno, Error};
use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

static STARTED: AtomicBool = AtomicBool::new(false);

/// DPDK, started. One a process, ever: it is neither `Clone` nor to be had twice.
///
/// Pools, ports and registrations keep it alive; the last of them to go cleans DPDK up. If packets are
/// still held somewhere by then, their memory stays mapped until the process ends.
#[derive(Debug)]
pub struct Eal {
    core: Arc<Core>,
}

/// What every object that needs DPDK holds on to.
#[derive(Debug)]
pub(crate) struct Core {
    /// Set when a pool could not be freed because packets of it live on.
    pub(crate) packets_at_large: AtomicBool,
    /// Buses and the list of ports are not safe for two threads at once.
    control: Mutex<Control>,
}

/// State of the control side.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Pools that exist.
    pub(crate) pools: usize,
    /// Ports that free transmitted packets without a look at their pool.
    pub(crate) fast_free_ports: usize,
    /// DPDK's numbers of the ports that have an owner.
    pub(crate) ports: Vec<u16>,
}

/// Heap of one NUMA node, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: usize,
    /// Given out.
    pub allocated: usize,
    /// Not given out.
    pub free: usize,
    /// Largest piece of that.
    pub largest_free: usize,
}

impl Eal {
    /// Starts DPDK with `arguments` as on a DPDK program's command line, without the program's name.
    /// Changes the calling thread's CPU affinity to that of the main lcore.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] at the second call, [`Error::Init`] with DPDK's reason.
    pub fn init<S: AsRef<str>>(arguments: &[S]) -> Result<Self, Error> {
        let mut words = vec![CString::from(c"turnpike")];
        for argument in arguments {
            let argument = argument.as_ref();
            words.push(CString::new(argument).map_err(|_| Error::ZeroByte(argument.to_owned()))?);
        }
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        // EAL and its drivers keep pointers to the words: they live as long as the process, once.
        let mut argv: Vec<*mut c_char> = words.into_iter().map(CString::into_raw).collect();
        let argc = c_int::try_from(argv.len()).map_err(|_| Error::Init(Errno(7)))?;
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        // SAFETY: argv holds argc valid strings and a null behind them, all of which live for ever; the
        // flag above makes this the only call in the process.
        let code = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if code < 0 {
            return Err(Error::Init(Errno::of(code)));
        }
        let core = Core { packets_at_large: AtomicBool::new(false), control: Mutex::new(Control::default()) };
        Ok(Self { core: Arc::new(core) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// DPDK's version, such as `DPDK 22.11.11`.
    #[must_use]
    pub fn version(&self) -> String {
        // SAFETY: takes nothing; answers with a static string.
        let text = unsafe { dpdk_sys::rte_version() };
        // SAFETY: static and ended by zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Ticks of [`rdtsc`] a second.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: EAL measured it at start and only hands it out.
        unsafe { dpdk_sys::rte_get_tsc_hz() }
    }

    /// DPDK's heap on NUMA node `socket`, or `None` if there is none.
    #[must_use]
    pub fn memory(&self, socket: i32) -> Option<Memory> {
        let mut stats = dpdk_sys::rte_malloc_socket_stats::default();
        // SAFETY: the pointer is to a local of the right type; the function checks the node.
        let code = unsafe { dpdk_sys::rte_malloc_get_socket_stats(socket, &raw mut stats) };
        (code == 0).then_some(Memory {
            total: stats.heap_totalsz_bytes,
            allocated: stats.heap_allocsz_bytes,
            free: stats.heap_freesz_bytes,
            largest_free: stats.greatest_free_size,
        })
    }

    /// Makes the calling thread one of DPDK's, so that it has caches of its own in the packet pools.
    /// Ends with the value returned.
    ///
    /// # Errors
    /// If EAL was started for several processes, or has no lcore id left.
    pub fn register_thread(&self) -> Result<Registration, Error> {
        // SAFETY: DPDK is started and stays so while the registration holds `core`.
        let code = unsafe { dpdk_sys::rte_thread_register() };
        if code != 0 {
            return Err(Error::Thread(Errno::of(code)));
        }
        Ok(Registration { _core: Arc::clone(&self.core), _this_thread: PhantomData })
    }
}

impl Core {
    /// The control side, for one thread at a time.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        // The numbers inside stay right even if a thread panicked over them.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if *self.packets_at_large.get_mut() {
            return;
        }
        // SAFETY: ports, pools and registrations hold this object, so none exists any more, and no packet
        // is left (else the flag would be set).
        let _ = unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// The calling thread is registered with EAL while this lives. It cannot leave the thread.
#[derive(Debug)]
pub struct Registration {
    _core: Arc<Core>,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: this thread was registered by `Eal::register_thread`, and the value is not Send.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

/// The time stamp counter of this core. Ticks as often as [`Eal::tsc_hz`] says.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a register.
    unsafe { dpdk_sys::turnpike_rdtsc() }
}

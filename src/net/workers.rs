//! Threads with a single-threaded runtime each. A task lives on one of them from its start to its end.
//!
//! There are two sets of them. The *acceptors* bring connections in (accept, TLS handshake, CONNECT, login) and see them
//! out; the *workers* run what lies in between. A storm of connections is work for the acceptors, which have the lower
//! priority: on a worker it would stand in one queue with the messages of those who are connected.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, EnterGuard, Handle},
    sync::watch,
};

use crate::priority::Priority;

/// Threads that run tasks.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

/// One of the threads.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

/// Counts a task against its worker for as long as it lives.
#[derive(Debug)]
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Runs a task on this thread.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&self.load));
        self.handle.spawn(async move {
            let _load = load;
            task.await;
        });
    }

    /// What is registered for readiness while the guard lives, is registered with this thread.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }
}

impl Workers {
    /// Starts `count` threads (at least one), with the priority of the process when `priority` names no other.
    pub(crate) fn start(name: &str, count: usize, priority: Option<Priority>) -> io::Result<Self> {
        let (stop, _) = watch::channel(false);
        let mut threads = Vec::new();
        let all = (0..count.max(1))
            .map(|number| {
                let runtime = Builder::new_current_thread().enable_all().event_interval(127).build()?;
                let handle = runtime.handle().clone();
                let mut stopped = stop.subscribe();
                threads.push(thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                    if let Some(priority) = priority {
                        priority.take();
                    }
                    // An error means that the sender is gone, which also is the end.
                    runtime.block_on(async move { drop(stopped.wait_for(|stop| *stop).await) });
                    // What still blocks (a commit, a hash) ends on its own.
                    runtime.shutdown_background();
                })?);
                Ok(Worker { handle, load: Arc::default() })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { all, threads: Mutex::new(threads), stop })
    }

    /// Each of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Worker> {
        self.all.iter()
    }

    /// The one with the fewest tasks. `None`: never, there is at least one.
    pub(super) fn least_busy(&self) -> Option<&Worker> {
        self.all.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed))
    }

    /// Runs a task on the thread that has the fewest.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(worker) = self.least_busy() {
            worker.spawn(task);
        }
    }

    /// Tasks that have not ended.
    pub(crate) fn tasks(&self) -> usize {
        self.all.iter().map(|worker| worker.load.load(Ordering::Relaxed)).sum()
    }

    /// Drops every task and ends the threads.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
        let current = thread::current().id();
        for thread in self.threads.lock().drain(..) {
            // The last owner may be a task on a worker, which cannot wait for itself.
            if thread.thread().id() != current && thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

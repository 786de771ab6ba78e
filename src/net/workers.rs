//! One single-threaded runtime per core. A connection lives on one of them from accept to close.

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
    runtime::{Builder, Handle},
    sync::watch,
};

/// Threads that run tasks.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

/// Counts a task, and what it goes on as, against its worker for as long as it lives.
#[derive(Debug)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads (at least one).
    pub(crate) fn start(name: &str, count: usize) -> io::Result<Self> {
        let (stop, _) = watch::channel(false);
        let mut threads = Vec::new();
        let all = (0..count.max(1))
            .map(|number| {
                let runtime = Builder::new_current_thread().enable_all().event_interval(127).build()?;
                let handle = runtime.handle().clone();
                let mut stopped = stop.subscribe();
                threads.push(thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
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

    /// Runs a task on the worker that has the fewest.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_with(|load| async move {
            let _load = load;
            task.await;
        });
    }

    /// As [`Workers::spawn`], with the token that counts the task, to be handed on to what the task goes on as.
    pub(crate) fn spawn_with<F>(&self, task: impl FnOnce(Load) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // INVARIANT: there is at least one worker.
        let Some(worker) = self.all.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        worker.handle.spawn(task(Load(Arc::clone(&worker.load))));
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

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

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

/// The threads that serve connections. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Counts a task against its worker for as long as it lives.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads (at least one).
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let (stop, _) = watch::channel(false);
        let workers = (0..count.max(1))
            .map(|number| {
                let runtime = Builder::new_current_thread().enable_all().event_interval(127).build()?;
                let handle = runtime.handle().clone();
                let mut stopped = stop.subscribe();
                let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                    // An error means that the sender is gone, which also is the end.
                    runtime.block_on(async move { drop(stopped.wait_for(|stop| *stop).await) });
                })?;
                Ok(Worker { handle, load: Arc::default(), thread: Some(thread) })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, stop })
    }

    /// Runs a task on the worker that has the fewest.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // INVARIANT: there is at least one worker.
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&worker.load));
        worker.handle.spawn(async move {
            let _load = load;
            task.await;
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let current = thread::current().id();
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            // The last owner may be a task on a worker, which cannot wait for itself.
            if thread.thread().id() != current && thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

//! How a thread stands beside the others of the process when there are more that want to run than cores.
//!
//! On Linux it is its nice value; elsewhere every thread has the priority of the process, for want of a safe call.

/// What a thread is for, the most urgent first. Live sessions have the priority of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Bringing connections in and seeing them out: a storm of them yields to messages.
    Connecting,
    /// Passwords: a storm of logins yields to everything.
    Hashing,
}

impl Priority {
    /// Gives it to the calling thread. A process that is nicer than that itself keeps its own.
    pub(crate) fn take(self) {
        // Linux counts the nice value by thread, whatever POSIX says (setpriority(2), "C library/kernel differences").
        #[cfg(target_os = "linux")]
        {
            let nice = match self {
                Self::Connecting => 5,
                Self::Hashing => 10,
            };
            let lowered = rustix::process::getpriority_process(None)
                .and_then(|now| if now < nice { rustix::process::setpriority_process(None, nice) } else { Ok(()) });
            if let Err(error) = lowered {
                tracing::warn!(%error, priority = ?self, "a thread keeps the priority of the process");
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn only_the_thread_that_asks_is_lowered_and_never_raised() {
        let before = getpriority_process(None).unwrap();
        let lowered = std::thread::spawn(|| {
            Priority::Hashing.take();
            let hashing = getpriority_process(None).unwrap();
            Priority::Connecting.take();
            (hashing, getpriority_process(None).unwrap())
        });
        assert_eq!(lowered.join().unwrap(), (10.max(before), 10.max(before)));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}

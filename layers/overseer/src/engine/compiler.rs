//! The thread that compiles. One for all modules of an engine: what compiling one allocates is used again by the next.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use crate::error::CompileError;

type Job = Box<dyn FnOnce() + Send>;

/// Runs what compiles, waiting so long and no longer. The thread comes with the first job and goes with this.
#[derive(Default)]
pub(crate) struct Compiler {
    /// Absent before the first job, and after one that took too long: that thread ends when its job does.
    thread: Mutex<Option<SyncSender<Job>>>,
}

impl Compiler {
    /// Runs `work`, waiting at most `deadline`. What takes longer is abandoned: it works on to its end, and its result is
    /// dropped; the next has a thread of its own.
    ///
    /// # Errors
    ///
    /// When it takes too long, panics, or no thread is to be had.
    pub(super) fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CompileError> {
        let (done, result) = mpsc::sync_channel(1);
        self.give(Box::new(move || {
            // Nobody listens when the deadline has passed: the result is dropped.
            let _ignored: Result<(), mpsc::SendError<T>> = done.send(work());
        }))?;
        result.recv_timeout(deadline).map_err(|error| {
            *self.thread() = None;
            match error {
                mpsc::RecvTimeoutError::Timeout => CompileError::Deadline { deadline },
                mpsc::RecvTimeoutError::Disconnected => CompileError::Panicked,
            }
        })
    }

    fn give(&self, job: Job) -> Result<(), CompileError> {
        let mut thread = self.thread();
        let job = match &*thread {
            None => job,
            Some(known) => match known.try_send(job) {
                Ok(()) => return Ok(()),
                // Another waits already, or the thread is gone with a job that panicked.
                Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) => job,
            },
        };
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        thread::Builder::new()
            .name("overseer-compile".into())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .map_err(CompileError::Thread)?;
        if jobs.send(job).is_err() {
            return Err(CompileError::Panicked);
        }
        *thread = Some(jobs);
        Ok(())
    }

    fn thread(&self) -> MutexGuard<'_, Option<SyncSender<Job>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiler")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread::{self, ThreadId},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn thread_of(compiler: &Compiler) -> ThreadId {
        compiler.run(PATIENCE, || thread::current().id()).unwrap()
    }

    #[test]
    fn one_thread_runs_all_jobs() {
        let compiler = Compiler::default();
        assert_eq!(thread_of(&compiler), thread_of(&compiler));
    }

    #[test]
    fn what_takes_too_long_is_abandoned_and_the_next_does_not_wait_for_it() {
        let compiler = Compiler::default();
        let (go, gate) = mpsc::channel::<()>();
        let slow = compiler.run(Duration::from_millis(1), move || gate.recv());
        assert!(matches!(slow, Err(CompileError::Deadline { .. })));
        assert_eq!(compiler.run(PATIENCE, || 7).unwrap(), 7);
        drop(go);
    }

    #[test]
    fn a_panic_is_an_error_and_the_next_job_has_another_thread() {
        let compiler = Compiler::default();
        let first = thread_of(&compiler);
        let panicked = compiler.run(PATIENCE, || panic!("a job that panics"));
        assert!(matches!(panicked, Err::<(), _>(CompileError::Panicked)));
        assert_ne!(thread_of(&compiler), first);
    }
}

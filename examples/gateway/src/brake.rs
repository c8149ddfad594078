//! What holds rollouts on this machine: an audit trail that cannot be written is shown, and SIGUSR1 stops.

use arqon::{platform::Platform, rollout::Handle, supervise::Supervisor};
use tokio_util::sync::CancellationToken;

use crate::readiness::Readiness;

/// Shows in `/readyz` whether control actions can be audited and shares may rise, and stops every tenant at a SIGUSR1.
pub(crate) fn watch(
    platform: &Platform,
    readiness: &Readiness,
    tasks: &Supervisor,
    stop: &CancellationToken,
) {
    // Requests are served as well without it: a full disk must not take every gateway out of the balancer.
    let rollout = platform.rollout.clone();
    readiness.advise("audit", move || rollout.audited());
    let rollout = platform.rollout.clone();
    readiness.advise("rollout", move || rollout.held());
    stop_at_signal(platform.rollout.clone(), tasks, stop.clone());
}

/// Whoever may signal the process may stop it: without a token, a key or a network (threat T17).
#[cfg(unix)]
fn stop_at_signal(rollout: Handle, tasks: &Supervisor, stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};

    let Ok(mut signals) = signal(SignalKind::user_defined1()) else {
        return;
    };
    tasks.run("signals", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                signal = signals.recv() => if signal.is_none() { return Ok(()) },
            }
            let rollout = rollout.clone();
            // It writes to disk.
            let stopped = tokio::task::spawn_blocking(move || {
                for tenant in rollout.tenants() {
                    let durable = rollout.stop(&tenant, "SIGUSR1");
                    tracing::warn!(component = "rollout", tenant_id = %tenant, durable, "stopped by SIGUSR1");
                }
            });
            stopped.await.map_err(|error| error.to_string())?;
        }
    });
}

#[cfg(not(unix))]
fn stop_at_signal(_rollout: Handle, _tasks: &Supervisor, _stop: CancellationToken) {}

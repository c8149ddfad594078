//! Lag is exact for every capacity from 2 to 1,025.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use ron_bus::{Bus, Notice};
use tokio::sync::broadcast::error::TryRecvError;

use drive::{drain, now, version, versions};

#[test]
fn every_capacity_loses_exactly_what_exceeds_the_ring() {
    for capacity in 2..=1_025u32 {
        let bus = Bus::new(capacity).expect("a capacity");
        let ring = bus.effective_capacity() as u64;
        assert_eq!(
            (bus.capacity(), ring),
            (capacity as usize, u64::from(capacity.next_power_of_two()))
        );
        for excess in [0, 1, 7, ring, 3 * ring + 1] {
            let (mut raw, mut observed) = (bus.subscribe(), bus.observe("slow"));
            let sent = ring + excess;
            (0..sent).for_each(|i| drop(bus.publish(version(i))));
            assert_eq!(bus.queue_depth() as u64, ring);
            if excess > 0 {
                assert_eq!(
                    raw.try_recv(),
                    Err(TryRecvError::Lagged(excess)),
                    "capacity {capacity}"
                );
                assert_eq!(now(observed.next()), Some(Some(Notice::Resync { lost: excess })));
            }
            let rest: Vec<u64> = (excess..sent).collect();
            let raw_rest: Vec<u64> = std::iter::from_fn(|| raw.try_recv().ok())
                .map(|e| drive::number(&e))
                .collect();
            assert_eq!(raw_rest, rest, "capacity {capacity}");
            assert_eq!(versions(&drain(&mut observed).0), rest, "capacity {capacity}");
            assert_eq!((observed.received(), observed.dropped()), (ring, excess));
        }
    }
}

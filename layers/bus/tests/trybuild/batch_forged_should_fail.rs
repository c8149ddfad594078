use ron_bus::{Bus, BusError, Event};

fn main() -> Result<(), BusError> {
    let bus = Bus::new(8)?;
    let mut receiver = bus.subscribe();
    if let Ok(Event::Batch { reports, .. }) = receiver.try_recv() {
        bus.publish(Event::Batch { batch_index: 9, first_seq: 9, len: 9, reports })?;
    }
    Ok(())
}

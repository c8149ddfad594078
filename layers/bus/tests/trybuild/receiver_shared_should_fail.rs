use ron_bus::{Bus, BusError};

fn main() -> Result<(), BusError> {
    let bus = Bus::new(8)?;
    let receiver = bus.subscribe();
    let _second = receiver.clone();
    Ok(())
}

use ron_bus::{Bus, BusError};

fn main() -> Result<(), BusError> {
    let bus = Bus::new(8)?;
    let mut subscriber = bus.observe("audit");
    let (mut a, mut b) = (subscriber.clone(), &mut subscriber);
    drop((a.next(), b.next(), subscriber.next()));
    Ok(())
}

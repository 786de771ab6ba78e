//! A broker inside another program: `cargo run --example embed`.
#![allow(clippy::print_stdout, reason = "an example")]

use portcullis::access::{Context, Operation, Permission, Role};
use portcullis::directory::{Actor, Expected};
use portcullis::{broker::Broker, config::Config, mqtt::QoS};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In broker.toml's words; what is not said has its default.
    let text = "metrics.bind = 'off'\nadmin.bind = 'off'\nstore.durability = 'memory'\n[[listener]]\nname = 'local'\nbind = '127.0.0.1:0'";
    let config = Config::parse(text, std::env::temp_dir().join("portcullis-embed"))?;
    let broker = Broker::builder(config).bind().await?;
    let handle = broker.handle();
    let rule = Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/${username}/#");
    handle.directory().put_role(Role::new("line".parse()?, vec![rule]), Expected::Absent, &Actor::System)?;

    let alarms = handle.subscribe("plant/+/alarm".try_into()?)?;
    handle.publish("plant/press-4/alarm".try_into()?, "too hot", QoS::AtLeastOnce, false)?;
    println!("{:?} on {:?}", alarms.next().await.payload, broker.local_addr("local"));
    broker.shutdown().await;
    Ok(())
}

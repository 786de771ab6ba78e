//! A broker inside another program: `cargo run --example embed`.

use portcullis::{
    access::{Context, Operation, Permission, Role},
    broker::Broker,
    config::Config,
    directory::{Actor, Expected},
    mqtt::QoS,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any address, nothing on disk but the CA: what is not said here has the defaults of broker.toml.
    let config = Config::parse(
        "metrics = { bind = \"127.0.0.1:0\" }\nstore = { durability = \"memory\" }\n\
         [[listener]]\nname = \"local\"\nbind = \"127.0.0.1:0\"",
        std::env::temp_dir().join("portcullis-embed"),
    )?;
    let broker = Broker::builder(config).bind().await?;
    let handle = broker.handle();
    let role =
        Role::new("line".parse()?, vec![Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/${username}/#")]);
    handle.directory().put_role(role, Expected::Absent, &Actor::System)?;

    let alarms = handle.subscribe("plant/+/alarm".try_into()?)?;
    handle.publish("plant/press-4/alarm".try_into()?, "too hot", QoS::AtLeastOnce, false)?;
    println!("{:?} on {:?}", alarms.next().await.payload, broker.local_addr("local"));
    broker.shutdown().await;
    Ok(())
}

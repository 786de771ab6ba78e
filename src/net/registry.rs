//! placeholder
use super::{Server, SessionCell};
use crate::session::{Owner, RegistryRequest};
use std::{net::IpAddr, sync::Arc};
pub(super) struct Asker {
    pub(super) server: Arc<Server>,
    pub(super) cell: Arc<SessionCell>,
    pub(super) connection: u64,
    pub(super) owner: Owner,
    pub(super) source: IpAddr,
    pub(super) listener: String,
}
impl Asker {
    pub(super) async fn ask(&self, _r: RegistryRequest, _busy: bool) {}
}

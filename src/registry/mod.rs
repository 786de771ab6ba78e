//! placeholder
use crate::{
    authn::Hasher,
    clock::Clock,
    directory::{Directory, DirectoryError},
    pki::CertificateAuthority,
    store::Store,
};
use std::sync::Arc;
pub struct Settings;
pub struct Registry;
impl Registry {
    pub fn open(
        _s: Arc<dyn Store>,
        _d: Arc<Directory>,
        _c: Arc<CertificateAuthority>,
        _h: Arc<Hasher>,
        _k: Arc<dyn Clock>,
        _x: Settings,
    ) -> Result<Self, DirectoryError> {
        Ok(Self)
    }
    pub fn tick(&self) {}
}

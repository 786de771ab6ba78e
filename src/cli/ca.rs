//! The certificate authority: what it is, its revocation list, an issuer that is revoked.

use portcullis::admin::api::{CaView, IssuerRevocation, RevokedIssuerView};
use portcullis::{files, pki};

use super::args::CaCommand;
use super::client::{Client, segment};
use super::output::{self, Fields, printable};
use super::{Failure, Shell};

/// Does what the arguments say.
pub(crate) async fn run(command: CaCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        CaCommand::Show => {
            let ca: CaView = client.get("/api/ca").await?;
            shell.print(&ca, show)
        }
        CaCommand::Crl { out } => {
            let list = client.bytes("/crl").await?;
            match out {
                Some(path) => {
                    // Whoever reads the file finds the old list or the new one, never a part.
                    files::replace(&path, &list, 0o644)
                        .map_err(|error| Failure::Answer(format!("cannot write `{}`: {error}", path.display())))?;
                    shell.print(&path, |path| format!("wrote the revocation list to {}\n", path.display()))
                }
                None => Ok(write!(shell.out, "{}", pki::pem("X509 CRL", &list))?),
            }
        }
        CaCommand::Revoke { issuer, reason, comment } => {
            let path = format!("/api/ca/issuers/{}/revoke", segment(&issuer)?);
            let revoked: RevokedIssuerView = client.post(&path, &IssuerRevocation { reason, comment }).await?;
            shell.print(&revoked, |revoked| {
                format!(
                    "revoked the issuer {} and all that it has issued; the sessions that stood on it were ended\n",
                    printable(&revoked.issuer)
                )
            })
        }
    }
}

fn show(ca: &CaView) -> String {
    let mut fields = Fields::default();
    fields.add("subject", ca.subject.as_str());
    fields.add("key", ca.key.as_str());
    fields.add("issuer", ca.key_identifier.as_str());
    fields.add("fingerprint", format!("SHA-256 {}", ca.fingerprint));
    fields.add("valid", format!("{} to {}", output::time(ca.not_before), output::time(ca.not_after)));
    let count = &ca.certificates;
    let others = match count.of_other_issuers {
        0 => String::new(),
        others => format!("; {others} of those in force are of other issuers"),
    };
    let certificates = format!("{} in force, {} revoked, {} expired{others}", count.live, count.revoked, count.expired);
    fields.add("certificates", certificates);
    fields.add(
        "crl",
        ca.crl.as_ref().map_or_else(
            || "none".to_owned(),
            |crl| {
                let (made, next) = (output::time(crl.this_update), output::time(crl.next_update));
                format!(
                    "number {}, {}, made {made}, next by {next}",
                    crl.number,
                    output::count(crl.entries, "certificate")
                )
            },
        ),
    );
    fields.add("crl url", ca.crl_url.clone().unwrap_or_default());
    for trust in &ca.trust {
        let until = output::time(trust.not_after);
        fields.add(
            "trusts",
            format!("{} for users `{}`, until {until}", trust.subject, String::from(trust.username.clone())),
        );
    }
    for revoked in &ca.revoked_issuers {
        let comment = revoked.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        let at = output::time(revoked.revoked_at);
        fields.add("revoked", format!("issuer {} {at} ({}){comment}", revoked.issuer, revoked.reason));
    }
    fields.to_string()
}

//! The certificate authority: what it is, its revocation list, an issuer that is revoked.

use portcullis::admin::api::{
    CaImport, CaRequest, CaRequested, CaRetirement, CaView, IssuerRevocation, LivingView, Page, RevokedIssuerView,
};
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
        CaCommand::Rotate => {
            let ca: CaView = client.post("/api/ca/rotate", &serde_json::json!({})).await?;
            shell.print(&ca, changed)
        }
        CaCommand::Csr { name, out } => {
            let asked: CaRequested = client.post("/api/ca/csr", &CaRequest { common_name: name }).await?;
            match out {
                Some(path) => {
                    files::replace(&path, asked.csr.as_bytes(), 0o644)
                        .map_err(|error| Failure::Answer(format!("cannot write `{}`: {error}", path.display())))?;
                    shell.print(&path, |path| format!("wrote the request to {}\n", path.display()))
                }
                None => shell.print(&asked, |asked| asked.csr.clone()),
            }
        }
        CaCommand::Import { certificates: path } => {
            let certificates = std::fs::read_to_string(&path)
                .map_err(|error| Failure::Answer(format!("cannot read `{}`: {error}", path.display())))?;
            let ca: CaView = client.post("/api/ca/import", &CaImport { certificates }).await?;
            shell.print(&ca, changed)
        }
        CaCommand::Living { issuer, after, limit } => {
            let mut path = format!("/api/ca/issuers/{}/certificates?limit={}", segment(&issuer)?, limit.unwrap_or(100));
            if let Some(after) = after {
                path = format!("{path}&after={after}");
            }
            let page: Page<LivingView> = client.get(&path).await?;
            shell.print(&page, |page| {
                let line = |it: &LivingView| {
                    let until = output::time(it.not_after);
                    format!("{}  {}  until {until}\n", it.username, printable(&it.serial))
                };
                page.items.iter().map(line).collect()
            })
        }
        CaCommand::Retire { issuer, force } => {
            let path = format!("/api/ca/issuers/{}/retire", segment(&issuer)?);
            let ca: CaView = client.post(&path, &CaRetirement { force }).await?;
            shell.print(&ca, |_| format!("the CA {} is trusted no more\n", printable(&issuer)))
        }
        CaCommand::Crl { out, issuer } => {
            let path = match &issuer {
                Some(issuer) => format!("/crl/{}", segment(issuer)?),
                None => "/crl".to_owned(),
            };
            let list = client.bytes(&path).await?;
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

fn changed(ca: &CaView) -> String {
    let former = ca.former.as_ref().map_or_else(String::new, |former| {
        let certificates = output::count(u64::try_from(former.certificates).unwrap_or(u64::MAX), "certificate");
        format!(
            "\nthe one before, {}, stays trusted: {certificates} of it in force; `ca retire {}` ends that",
            former.issuer, former.issuer
        )
    });
    printable(&format!("the CA {} ({}) issues from now on", ca.key_identifier, ca.subject)) + &former + "\n"
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
    if let Some(former) = &ca.former {
        let (until, users) = (output::time(former.not_after), former.users);
        fields.add(
            "former",
            format!(
                "issuer {} ({}), until {until}: {} certificates of {users} users in force",
                former.issuer, former.subject, former.certificates
            ),
        );
    }
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

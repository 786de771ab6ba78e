//! `config check`, and how the problems of a configuration are drawn: with their lines, by miette.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity, SourceCode};
use portcullis::config::{ClientCertificate, Config, ConfigError, Invalid, Problem, Registry, RuleAction};
use portcullis::pki::Naming;
use serde_json::{Value, json};

use super::output::{self, Table, printable};
use super::{Failure, Shell};

/// One problem with the lines around it.
#[derive(Debug)]
struct Drawn<'a> {
    source: NamedSource<String>,
    problem: &'a Problem,
    severity: Severity,
}

impl<'a> Drawn<'a> {
    fn new(name: &str, text: &str, problem: &'a Problem, severity: Severity) -> Self {
        Self { source: NamedSource::new(name, text.to_owned()), problem, severity }
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.problem.found))
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(printable(&self.problem.advice)))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.problem.span.as_ref().map(|_| &self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }
}

/// What is wrong, on standard error.
pub(crate) fn tell(error: &ConfigError, json: bool, err: &mut dyn Write) -> io::Result<()> {
    match error {
        _ if json => {
            let answer = json!({ "valid": false, "problems": problems_json(error) });
            writeln!(err, "{}", output::json(&answer, true).map_err(io::Error::other)?)
        }
        ConfigError::Invalid(Invalid { name, text, problems }) => {
            for problem in problems {
                draw(&Drawn::new(name, text, problem, Severity::Error), err)?;
            }
            let count = output::count(problems.len() as u64, "problem");
            writeln!(err, "portcullis: {count} in `{}`; nothing was started", printable(name))
        }
        error => writeln!(err, "portcullis: {}", printable(&error.to_string())),
    }
}

fn draw(drawn: &Drawn<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut text = String::new();
    let handler =
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110).with_context_lines(1);
    match handler.render_report(&mut text, drawn) {
        Ok(()) => writeln!(out, "{}", text.trim_end()),
        Err(_) => writeln!(out, "{drawn}; {}", drawn.problem.advice),
    }
}

fn problems_json(error: &ConfigError) -> Value {
    match error {
        ConfigError::Invalid(invalid) => invalid.problems.iter().map(problem_json).collect(),
        error => json!([{ "found": error.to_string() }]),
    }
}

fn problem_json(problem: &Problem) -> Value {
    json!({ "line": problem.line, "column": problem.column, "found": problem.found, "advice": problem.advice })
}

/// Prints what a configuration means, or fails with what is wrong in it.
pub(crate) fn check(outcome: Result<Config, ConfigError>, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let config = outcome?;
    let warnings = config.source.warnings();
    if shell.json {
        let warnings: Vec<Value> = warnings.iter().map(problem_json).collect();
        return shell.print(&json!({ "valid": true, "warnings": warnings }), |_| String::new());
    }
    for warning in warnings {
        let text = Drawn::new(config.source.name(), config.source.text(), warning, Severity::Warning);
        draw(&text, shell.out)?;
    }
    let name = Some(config.source.name()).filter(|name| !name.is_empty()).unwrap_or("the default configuration");
    writeln!(shell.out, "{} is valid\n", printable(name))?;
    write!(shell.out, "{}", listeners(&config, shell.bold))?;
    let mut fields = output::Fields::default();
    fields.add("data", config.data_dir.display().to_string());
    fields.add("certificate", config.tls.certificate.display().to_string());
    fields.add("authority", config.ca.certificate.display().to_string());
    if let Naming::Uri(prefix) = &config.ca.naming {
        fields.add("identity", format!("{}NAME", prefix.as_str()));
    }
    let address = |bind: Option<std::net::SocketAddr>| bind.map_or_else(|| "off".to_owned(), |bind| bind.to_string());
    fields.add("REST API", address(config.admin.bind));
    fields.add("metrics", address(config.metrics.bind));
    fields.add("enrolment", enrolment(&config.registry));
    fields.add("roles", config.roles.len().to_string());
    fields.add("users", config.users.len().to_string());
    Ok(write!(shell.out, "\n{fields}")?)
}

/// Who decides.
fn enrolment(registry: &Registry) -> String {
    let people = if registry.approvals < 2 { "one person grants" } else { "two people must grant the same" };
    let mut text = people.to_owned();
    for rule in &registry.rules {
        let grants = match &rule.action {
            RuleAction::Grant(grant) if grant.while_locked => "grants, also while the registry is locked",
            RuleAction::Grant(_) => "grants while the registry is unlocked",
            RuleAction::Deny { .. } => "denies",
        };
        let _ = write!(text, "; rule `{}` {grants}", rule.name);
    }
    text
}

fn listeners(config: &Config, bold: bool) -> String {
    let mut table = Table::new(bold, &["LISTENER", "ADDRESS", "PROTOCOL", "CERTIFICATE", "WITHOUT CREDENTIALS"]);
    for listener in &config.listeners {
        let certificate = match listener.client_certificate {
            ClientCertificate::Off => "off",
            ClientCertificate::Optional => "optional",
            ClientCertificate::Required => "required",
        };
        let without = match &listener.anonymous {
            Some(user) => format!("user {user}"),
            None if listener.registration => "may enrol".to_owned(),
            None => "refused".to_owned(),
        };
        table.row([
            listener.name.clone(),
            listener.bind.to_string(),
            listener.scheme().to_owned(),
            certificate.to_owned(),
            without,
        ]);
    }
    table.to_string()
}

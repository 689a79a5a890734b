//! `cloister selftest`: the device's operational qualification, for the file that a regulated site keeps.

use serde::Serialize;

use super::{progress::Line, screen::Screen, screen::Table, session::Session};
use crate::{
    base::{Error, Result},
    qualify::{self, Finding},
};

#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    device: String,
    passed: bool,
    findings: Vec<Finding>,
}

pub fn run(_: Args, session: &Session) -> Result<()> {
    let device = session.settings.device.open(session.settings.threads.map(usize::from))?;
    let line = Line::new();
    let findings = qualify::run(&device, &line)?;
    drop(line);
    let failed = findings.iter().filter(|finding| !finding.passed).count();
    let tried = findings.len();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        device: device.to_string(),
        passed: failed == 0,
        findings,
    };
    session.screen.show(&report, draw)?;
    match failed {
        0 => Ok(()),
        failed => Err(Error::failed(format!("{failed} of {tried} operations are wrong on {device}"))
            .remedy("do not compute on this device; run it again, and report what it prints")),
    }
}

fn draw(screen: &Screen, report: &Report) -> Result<()> {
    screen.line(format_args!("cloister {} on {}", report.version, report.device))?;
    let mut table = Table::new(["operation", "type", "shapes", "error", "allowed", "furthest at", "verdict"]);
    for finding in &report.findings {
        table.row([
            finding.kernel.into(),
            finding.dtype.into(),
            finding.shapes.to_string(),
            format!("{:.1e}", finding.worst_error),
            format!("{:.0e}", finding.tolerance),
            finding.worst_shape.clone(),
            finding.fault.clone().unwrap_or_else(|| "ok".into()),
        ]);
    }
    screen.table(&table)
}

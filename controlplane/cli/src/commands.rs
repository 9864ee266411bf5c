//! Carries out a command line.

use crate::args::{Cli, Command, ConfigAction, PinholeAction, RuleAction, Shell, Show};
use crate::output::{DEGRADED, DONE, Failure, Output};
use crate::pages::{self, Walk};
use crate::table::Table;
use crate::{rules, show, status, top};
use clap::CommandFactory;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use turnpike_api::{
    AgentData, BindingData, BindingsRequest, Client, ConfigData, DropsData, Envelope, ErrorBody, ErrorCode,
    FirewallRuleData, FlowData, FlowsRequest, GroupData, GroupsRequest, NeighbourData, Payload, PinholeData,
    PinholeRemove, PinholeState, PoolData, PortData, ReloadData, Request, RouteData, RuleData, RuleDelete,
    RulesRequest, SessionData, StatusData, VersionData, WorkerData,
};
use turnpike_config::Config;

/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Carries out a command and returns its exit code.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(cli: &Cli, output: &mut Output<'_>) -> Result<u8, Failure> {
    match &cli.command {
        Command::Show { what } => show_what(cli, what, output),
        Command::Pinhole { action } => pinhole(cli, action, output),
        Command::Nat { action } => crate::nat::run(cli, action, output),
        Command::Rule { action: RuleAction::Delete { id } } => {
            let answer = ask::<RuleData>(cli, &Request::RuleDelete(RuleDelete { id: *id }))?;
            output.answer(&answer, |out, rule| writeln!(out, "deleted {}", rules::line(rule)))?;
            Ok(DONE)
        }
        Command::Midcom(args) => crate::midcom::run(cli, args, output),
        Command::Config { action: ConfigAction::Check { file } } => check(file, output),
        Command::Config { action: ConfigAction::Reload } => reload(cli, output),
        Command::Top(args) => top::run(cli, args, output),
        Command::Version => version(cli, output),
        Command::Completions { shell } => completions(*shell, output),
    }
}

/// Connects as the command line says.
fn connect(cli: &Cli) -> Result<Client, Failure> {
    Ok(Client::connect(&cli.socket, cli.timeout)?)
}

/// Asks once.
pub(crate) fn ask<T: Payload>(cli: &Cli, request: &Request) -> Result<Envelope<T>, Failure> {
    Ok(connect(cli)?.call(request)?)
}

fn show_what(cli: &Cli, what: &Show, output: &mut Output<'_>) -> Result<u8, Failure> {
    match what {
        Show::Status { check: false } => {
            let answer = ask::<StatusData>(cli, &Request::Status)?;
            output.answer(&answer, |out, _| status::write(out, &answer))?;
        }
        Show::Status { check: true } => {
            let answer = ask::<StatusData>(cli, &Request::Status)?;
            let troubles = status::troubles(&answer.data);
            output.answer(&answer, |out, _| status::check(out, &answer.data, &troubles))?;
            return Ok(if troubles.is_empty() { DONE } else { DEGRADED });
        }
        Show::Ports => {
            let answer = ask::<Vec<PortData>>(cli, &Request::Ports)?;
            output.answer(&answer, |out, data| show::ports(out, data))?;
        }
        Show::Workers => {
            let answer = ask::<Vec<WorkerData>>(cli, &Request::Workers)?;
            list(output, &answer, "no workers: no dataplane is attached", show::workers)?;
        }
        Show::Flows(args) => {
            let filter = args.filter();
            let request =
                |cursor, limit| Request::Flows(FlowsRequest { filter: filter.clone(), cursor, limit });
            let walk: Walk<'_, FlowData> = Walk {
                what: "flows",
                request: &request,
                filtered: !filter.is_empty(),
                cap: args.extent.cap(),
                table: Table::new(show::FLOWS),
                row: &show::flow,
            };
            return pages::print(&mut connect(cli)?, output, walk);
        }
        Show::Bindings(args) => {
            let filter = args.filter();
            let request =
                |cursor, limit| Request::Bindings(BindingsRequest { filter: filter.clone(), cursor, limit });
            let walk: Walk<'_, BindingData> = Walk {
                what: "bindings",
                request: &request,
                filtered: !filter.is_empty(),
                cap: args.extent.cap(),
                table: Table::new(show::BINDINGS),
                row: &show::binding,
            };
            return pages::print(&mut connect(cli)?, output, walk);
        }
        Show::Pools => {
            let answer = ask::<Vec<PoolData>>(cli, &Request::Pools)?;
            list(output, &answer, "no pools", show::pools)?;
        }
        Show::Neighbours => {
            let answer = ask::<Vec<NeighbourData>>(cli, &Request::Neighbours)?;
            list(output, &answer, "no neighbours", show::neighbours)?;
        }
        Show::Routes => {
            let answer = ask::<Vec<RouteData>>(cli, &Request::Routes)?;
            list(output, &answer, "no routes", show::routes)?;
        }
        Show::Firewall => {
            let answer = ask::<Vec<FirewallRuleData>>(cli, &Request::Firewall)?;
            list(output, &answer, "no static rules: the defaults of the zone pairs decide", show::firewall)?;
        }
        Show::Drops { all } => {
            let answer = ask::<DropsData>(cli, &Request::Drops)?;
            output.answer(&answer, |out, data| show::drops(out, data, *all))?;
        }
        Show::Rules(args) => {
            let filter = args.filter();
            let request =
                |cursor, limit| Request::Rules(RulesRequest { filter: filter.clone(), cursor, limit });
            let walk: Walk<'_, RuleData> = Walk {
                what: "rules",
                request: &request,
                filtered: !filter.is_empty(),
                cap: args.extent.cap(),
                table: Table::new(rules::RULES),
                row: &rules::rule,
            };
            return pages::print(&mut connect(cli)?, output, walk);
        }
        Show::Groups { extent } => {
            let request = |cursor, limit| Request::Groups(GroupsRequest { cursor, limit });
            let walk: Walk<'_, GroupData> = Walk {
                what: "groups",
                request: &request,
                filtered: false,
                cap: extent.cap(),
                table: Table::new(rules::GROUPS),
                row: &rules::group,
            };
            return pages::print(&mut connect(cli)?, output, walk);
        }
        Show::Agents => {
            let answer = ask::<Vec<AgentData>>(cli, &Request::Agents)?;
            list(output, &answer, "no agents", rules::agents)?;
        }
        Show::Sessions => {
            let answer = ask::<Vec<SessionData>>(cli, &Request::Sessions)?;
            list(output, &answer, "no sessions", rules::sessions)?;
        }
        Show::Config => {
            let answer = ask::<ConfigData>(cli, &Request::Config)?;
            output.answer(&answer, show::config)?;
            needs_restart(output, &answer.data.needs_restart);
        }
    }
    Ok(DONE)
}

/// Prints a list, or says that it is empty.
fn list<T: Serialize>(
    output: &mut Output<'_>,
    answer: &Envelope<Vec<T>>,
    empty: &str,
    text: impl FnOnce(&mut dyn Write, &[T]) -> std::io::Result<()>,
) -> Result<(), Failure> {
    output.answer(answer, |out, data| if data.is_empty() { Ok(()) } else { text(out, data) })?;
    if answer.data.is_empty() {
        output.note(empty);
    }
    Ok(())
}

fn pinhole(cli: &Cli, action: &PinholeAction, output: &mut Output<'_>) -> Result<u8, Failure> {
    match action {
        PinholeAction::Add(args) => {
            let request = Request::PinholeAdd(args.request());
            request.check()?;
            let answer = ask::<PinholeData>(cli, &request)?;
            output.answer(&answer, |out, pinhole| writeln!(out, "added {}", show::pinhole(pinhole)))?;
            if answer.data.state == PinholeState::Pending {
                output.note("it is kept, and opens when a dataplane is attached");
            }
        }
        PinholeAction::List => {
            let answer = ask::<Vec<PinholeData>>(cli, &Request::PinholeList)?;
            list(output, &answer, "no pinholes", show::pinholes)?;
        }
        PinholeAction::Remove { id } => {
            let answer = ask::<PinholeData>(cli, &Request::PinholeRemove(PinholeRemove { id: *id }))?;
            output.answer(&answer, |out, pinhole| writeln!(out, "removed {}", show::pinhole(pinhole)))?;
        }
    }
    Ok(DONE)
}

/// What `config check` says about a sound file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckData {
    /// The file.
    pub path: String,
    /// Always true: a file with problems is an error with `details`.
    pub valid: bool,
}

impl Payload for CheckData {
    const SCHEMA: &'static str = "turnpike.check.v1";
}

fn check(file: &Path, output: &mut Output<'_>) -> Result<u8, Failure> {
    let path = file.display().to_string();
    match Config::load(file) {
        Ok(_) => {
            let answer = Envelope::new(host(), CheckData { path, valid: true });
            output.answer(&answer, |out, data| writeln!(out, "{}: ok", data.path))?;
            Ok(DONE)
        }
        Err(problems) => {
            let count = problems.count();
            let message = format!("{path}: {count} problem{}", if count == 1 { "" } else { "s" });
            let details = problems.to_string().lines().map(Into::into).collect();
            Err(ErrorBody::new(ErrorCode::ConfigInvalid, message).with_details(details).into())
        }
    }
}

fn reload(cli: &Cli, output: &mut Output<'_>) -> Result<u8, Failure> {
    let answer = ask::<ReloadData>(cli, &Request::ConfigReload)?;
    output.answer(&answer, |out, data| {
        if data.changed {
            writeln!(out, "{}: in force, hash {} (was {})", data.path, data.hash, data.previous_hash)
        } else {
            writeln!(out, "{}: nothing new for the workers, hash {}", data.path, data.hash)
        }
    })?;
    needs_restart(output, &answer.data.needs_restart);
    Ok(DONE)
}

fn needs_restart(output: &mut Output<'_>, keys: &[String]) {
    if !keys.is_empty() {
        output.note(&format!("waits for a restart of turnpike-dataplane: {}", keys.join(", ")));
    }
}

fn version(cli: &Cli, output: &mut Output<'_>) -> Result<u8, Failure> {
    let unreached = VersionData {
        cli: None,
        controlplane: None,
        dataplane: None,
        dpdk: None,
        api_version: turnpike_api::API_VERSION,
        abi_version: turnpike_abi::ABI_VERSION,
    };
    // What this program is does not depend on a daemon: one that is not there is worth a warning.
    let mut answer =
        match connect(cli).and_then(|mut client| Ok(client.call::<VersionData>(&Request::Version)?)) {
            Ok(answer) => answer,
            Err(Failure::Refused(body)) => Envelope::new(host(), unreached).with_warning(body.message),
            Err(Failure::Closed) => return Err(Failure::Closed),
        };
    answer.data.cli = Some(VERSION.into());
    output.answer(&answer, |out, data| {
        writeln!(out, "turnpike       {VERSION}")?;
        if let Some(version) = &data.controlplane {
            writeln!(out, "control plane  {version}")?;
        }
        match (&data.dataplane, &data.dpdk) {
            (Some(version), Some(dpdk)) => writeln!(out, "dataplane      {version}, {dpdk}"),
            (Some(version), None) => writeln!(out, "dataplane      {version}"),
            (None, _) => Ok(()),
        }
    })?;
    Ok(DONE)
}

/// Name of this host, as the kernel has it.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().into())
}

fn completions(shell: Shell, output: &mut Output<'_>) -> Result<u8, Failure> {
    use clap_complete::{generate, shells};
    let mut command = Cli::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "turnpike", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "turnpike", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "turnpike", &mut script),
    }
    output.stdout().write_all(&script)?;
    Ok(DONE)
}

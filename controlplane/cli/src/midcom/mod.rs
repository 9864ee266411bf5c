//! `turnpike midcom`: an agent on the command line.

pub mod args;
pub mod data;

use crate::args::Cli;
use crate::output::{DONE, Failure, NO_MATCH, Output};
use crate::table::printable;
use args::{Action, EnableArgs, MidcomArgs, Parity, ReserveArgs, TokenArgs, Way};
use data::{
    EndData, LifetimeData, MidcomGroup, MidcomGroups, MidcomRule, MidcomRules, MiddleboxData, TokenData,
};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use turnpike_api::{Envelope, ErrorBody, ErrorCode};
use turnpike_midcom::agent::{Agent, Lost, RequestError, Settings, TlsPeer};
use turnpike_midcom::certificate::{TlsFiles, client_config};
use turnpike_midcom::permit;
use turnpike_simco::{
    Behaviour, Credentials, Direction, Enable, EnableParameters, EnableReserved, Ended, Extensions, Extras,
    Failure as Code, IpVersion, Location, Lock, NatMode, PortParity, Reply, Reserve, ReserveParameters,
    RuleRequest, Tuple, WantedOutside,
};

/// Requests that `list` has under way.
const AT_ONCE: usize = 32;

/// Carries out a command of an agent and returns its exit code.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(cli: &Cli, args: &MidcomArgs, output: &mut Output<'_>) -> Result<u8, Failure> {
    let settings = settings(cli, args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(act(args, settings, output))
}

fn bad(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message.into())
}

fn settings(cli: &Cli, args: &MidcomArgs) -> Result<Settings, Failure> {
    let mut settings = Settings { timeout: cli.timeout, reconnect: None, ..Settings::new(&args.middlebox) };
    if let (Some(certificate), Some(key), Some(authorities)) =
        (&args.certificate, &args.key, &args.authorities)
    {
        let files =
            TlsFiles { certificate: certificate.clone(), key: key.clone(), authorities: authorities.clone() };
        let config = client_config(&files).map_err(|error| bad(error.to_string()))?;
        let host = args.middlebox.rsplit_once(':').map_or(args.middlebox.as_str(), |(host, _)| host);
        let name = args.server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
        let name = name.to_owned().try_into().map_err(|_| bad(format!("{name} is not a name of a host")))?;
        settings.tls = Some(TlsPeer { config, name });
    }
    if let (Some(agent), Some(path)) = (&args.agent, &args.agent_key) {
        let key =
            turnpike_midcom::read_key(path).map_err(|error| bad(format!("{}: {error}", path.display())))?;
        settings.credentials = Some(Credentials { id: agent.as_bytes().to_vec(), key });
    }
    Ok(settings)
}

async fn act(args: &MidcomArgs, settings: Settings, output: &mut Output<'_>) -> Result<u8, Failure> {
    let host = args.middlebox.clone();
    if let Action::Watch { count } = args.action {
        return watch(settings, count, output).await;
    }
    if let Action::Token(args) = &args.action {
        let data = token(args)?;
        output.answer(&Envelope::new(host, data), |out, data| writeln!(out, "{}", data.token))?;
        return Ok(DONE);
    }
    let (agent, established, _notices) = Agent::connect(settings).await.map_err(|lost| lost_body(&lost))?;
    let extensions = established.extensions.unwrap_or_default();
    match &args.action {
        Action::Session => {
            let data = data::middlebox(&established);
            output.answer(&Envelope::new(host, data), |out, data| write_middlebox(out, data))?;
        }
        Action::Reserve(args) => {
            let reserved = agent.reserve(reserve(args)).await.map_err(|error| refused(&error))?;
            rule(output, host, data::reserved(&reserved, None))?;
        }
        Action::Enable(args) => {
            let request = enable(args)?;
            let (internal, external) = (request.internal, request.external);
            let direction = request.parameters.direction;
            let enabled = agent.enable(request).await.map_err(|error| refused(&error))?;
            rule(output, host, data::enabled(&enabled, &internal, &external, direction))?;
        }
        Action::EnableReserved { rule: reserved, enable: args } => {
            let Enable { parameters, internal, external, lifetime, extras, .. } = enable(args)?;
            let request =
                EnableReserved { parameters, internal, external, lifetime, rule: *reserved, extras };
            let enabled = agent.enable_reserved(request).await.map_err(|error| refused(&error))?;
            rule(output, host, data::enabled(&enabled, &internal, &external, parameters.direction))?;
        }
        &Action::Extend { rule, lifetime } => change(&agent, rule, lifetime, host, output).await?,
        &Action::Delete { rule } => change(&agent, rule, 0, host, output).await?,
        &Action::Status { rule: of } => {
            let status = agent.status(of).await.map_err(|error| refused(&error))?;
            rule(output, host, data::status(&status))?;
        }
        Action::List => return list(&agent, extensions, host, output).await,
        Action::Groups => return groups(&agent, host, output).await,
        &Action::ExtendGroup { group, lifetime } => {
            let request = RuleRequest::ChangeGroupLifetime { group, lifetime };
            let reply = agent.request(request).await.map_err(|error| refused(&error))?;
            let Reply::GroupLifetimeChanged { lifetime } = reply else {
                return Err(refused(&RequestError::Unasked).into());
            };
            let data = LifetimeData {
                rule: None,
                group: Some(group),
                lifetime_seconds: lifetime,
                deleted: lifetime == 0,
            };
            output.answer(&Envelope::new(host, data), |out, data| write_lifetime(out, data))?;
        }
        Action::Token(_) | Action::Watch { .. } => {}
    }
    Ok(DONE)
}

/// A token of the operator's key.
fn token(args: &TokenArgs) -> Result<TokenData, Failure> {
    let key = turnpike_midcom::read_key(&args.token_key)
        .map_err(|error| bad(format!("{}: {error}", args.token_key.display())))?;
    let Some((address, length)) = args.internal.address else {
        return Err(bad("--internal any: name the inside host").into());
    };
    let everybody = if address.is_ipv4() { permit::Network::V4 } else { permit::Network::V6 };
    let outside =
        args.external.address.map_or(everybody, |(address, length)| permit::Network { address, length });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = since.as_secs().saturating_add(args.valid.into());
    let permit = permit::Permit {
        inside: permit::Network { address, length },
        outside,
        protocol: Some(permit::Protocol(args.protocol.0)).filter(|protocol| protocol.0 != 0),
        lifetime: args.lifetime,
        rules: args.rules,
        nonce: permit::identity()?,
        expires: permit::Time(expires.saturating_mul(1000)),
    };
    let token = permit::seal(&permit, &key).iter().map(|octet| format!("{octet:02x}")).collect();
    Ok(TokenData { token, expires_unix: expires })
}

/// Why there is no session.
fn lost_body(lost: &Lost) -> ErrorBody {
    let code = match lost {
        Lost::Ended(Ended::Refused(refused)) => match refused.failure {
            Code::AuthenticationFailed | Code::NoAuthorization | Code::InsufficientSecurity => {
                ErrorCode::Permission
            }
            Code::LackOfResources => ErrorCode::Failed,
            _ => ErrorCode::Unreachable,
        },
        Lost::Ended(Ended::NotAuthentic | Ended::NoKey) => ErrorCode::Permission,
        _ => ErrorCode::Unreachable,
    };
    ErrorBody::new(code, lost.to_string())
}

/// Why a request was not carried out.
fn refused(error: &RequestError) -> ErrorBody {
    let code = match error {
        RequestError::Refused(refused) => match refused.failure {
            Code::NoSuchRule | Code::NoSuchGroup => ErrorCode::NotFound,
            Code::NotAuthorized | Code::RuleAccess | Code::GroupAccess | Code::LifetimeAccess => {
                ErrorCode::Permission
            }
            Code::Conflict | Code::AlreadyEnabled => ErrorCode::Conflict,
            Code::BadlyFormed
            | Code::Inconsistent
            | Code::Wildcarding
            | Code::ProtocolMismatch
            | Code::NatMode
            | Code::IpVersion
            | Code::IllegalAddress
            | Code::ProtocolNotSupported
            | Code::IllegalPort
            | Code::IllegalRange
            | Code::ParityMismatch => ErrorCode::BadRequest,
            _ => ErrorCode::Failed,
        },
        RequestError::Lost(_) | RequestError::Closed | RequestError::Unasked => ErrorCode::Unreachable,
        RequestError::TooBig => ErrorCode::BadRequest,
    };
    ErrorBody::new(code, error.to_string())
}

fn reserve(args: &ReserveArgs) -> Reserve {
    let family = match args.family {
        Some(6) => Some(IpVersion::V6),
        Some(_) => Some(IpVersion::V4),
        None => args.internal.map(IpVersion::of),
    };
    let protocol = args.protocol.0;
    Reserve {
        parameters: ReserveParameters {
            mode: NatMode::Traditional,
            parity: match args.parity {
                Parity::Any => PortParity::Any,
                Parity::Odd => PortParity::Odd,
                Parity::Even => PortParity::Even,
            },
            inside: family,
            outside: family,
            protocol,
            range: args.ports,
        },
        lifetime: args.lifetime,
        group: args.group,
        internal: args.internal.map(|host| Tuple::full(Location::Internal, protocol, host, 0, args.ports)),
        extras: Extras {
            realm: args.realm.clone(),
            token: args.token.clone().map(|token| token.0),
            ..Extras::default()
        },
    }
}

fn enable(args: &EnableArgs) -> Result<Enable, Failure> {
    let protocol = args.protocol.0;
    let version = match args.internal.address {
        Some((address, _)) => IpVersion::of(address),
        None => return Err(bad("--internal any: name the inside host").into()),
    };
    let outside = args.outside.map(|end| WantedOutside {
        strict: args.strict,
        tuple: end.tuple(Location::Outside, protocol, args.ports, version),
    });
    let behaves = args.lock.is_some() || args.max_flows.is_some() || args.close_on_fin || args.idle.is_some();
    let behaviour = behaves.then(|| Behaviour {
        lock: match args.lock {
            None => Lock::None,
            Some(args::Lock::Address) => Lock::Address,
            Some(args::Lock::Endpoint) => Lock::AddressAndPort,
        },
        close_on_fin: args.close_on_fin,
        max_flows: args.max_flows.unwrap_or(0),
        idle_timeout: args.idle.unwrap_or(0),
    });
    Ok(Enable {
        parameters: EnableParameters {
            same_parity: args.same_parity,
            direction: match args.direction {
                Way::In => Direction::Inbound,
                Way::Out => Direction::Outbound,
                Way::Both => Direction::Bidirectional,
            },
        },
        internal: args.internal.tuple(Location::Internal, protocol, args.ports, version),
        external: args.external.tuple(Location::External, protocol, args.ports, version),
        lifetime: args.lifetime,
        group: args.group,
        extras: Extras {
            realm: args.realm.clone(),
            token: args.token.clone().map(|token| token.0),
            behaviour,
            outside,
            ..Extras::default()
        },
    })
}

async fn change(
    agent: &Agent,
    rule: u32,
    lifetime: u32,
    host: String,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let lifetime_seconds = agent.change_lifetime(rule, lifetime).await.map_err(|error| refused(&error))?;
    let deleted = lifetime_seconds == 0;
    let data = LifetimeData { rule: Some(rule), group: None, lifetime_seconds, deleted };
    output.answer(&Envelope::new(host, data), |out, data| write_lifetime(out, data))
}

async fn list(
    agent: &Agent,
    extensions: Extensions,
    host: String,
    output: &mut Output<'_>,
) -> Result<u8, Failure> {
    let all = agent.list(extensions).await.map_err(|error| refused(&error))?;
    let mut rules = Vec::with_capacity(all.len());
    for some in all.chunks(AT_ONCE) {
        let asked: Vec<_> = some
            .iter()
            .map(|&rule| {
                let agent = agent.clone();
                tokio::spawn(async move { agent.status(rule).await })
            })
            .collect();
        for status in asked {
            match status.await {
                Ok(Ok(status)) => rules.push(data::status(&status)),
                // Gone since it was listed.
                Ok(Err(RequestError::Refused(refused))) if refused.failure == Code::NoSuchRule => {}
                Ok(Err(error)) => return Err(refused(&error).into()),
                Err(error) => return Err(io::Error::other(error).into()),
            }
        }
    }
    let none = rules.is_empty();
    output.answer(&Envelope::new(host, MidcomRules(rules)), |out, rules| {
        rules.0.iter().try_for_each(|rule| write_rule(out, rule))
    })?;
    if none {
        output.note("no rules");
    }
    Ok(if none { NO_MATCH } else { DONE })
}

async fn groups(agent: &Agent, host: String, output: &mut Output<'_>) -> Result<u8, Failure> {
    let reply = agent.request(RuleRequest::GroupList).await.map_err(|error| refused(&error))?;
    let Reply::Groups(groups) = reply else { return Err(refused(&RequestError::Unasked).into()) };
    let named = |(group, owner): (u32, Vec<u8>)| MidcomGroup {
        group,
        owner: String::from_utf8_lossy(&owner).into_owned(),
    };
    let groups = MidcomGroups(groups.into_iter().map(named).collect());
    let none = groups.0.is_empty();
    output.answer(&Envelope::new(host, groups), |out, groups| {
        groups
            .0
            .iter()
            .try_for_each(|group| writeln!(out, "group {}  owner {}", group.group, printable(&group.owner)))
    })?;
    Ok(if none { NO_MATCH } else { DONE })
}

async fn watch(mut settings: Settings, count: Option<u64>, output: &mut Output<'_>) -> Result<u8, Failure> {
    settings.reconnect = Some(Duration::from_secs(30));
    let (_agent, _, mut notices) = Agent::connect(settings).await.map_err(|lost| lost_body(&lost))?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(notice) = notices.recv().await else { break };
        let event = data::event(&notice);
        if matches!(event.event.as_str(), "rule" | "group" | "expiring") {
            left -= 1;
        }
        if output.json {
            serde_json::to_writer(output.stdout(), &event)?;
            writeln!(output.stdout())?;
        } else {
            write_event(output.stdout(), &event)?;
        }
        output.flush()?;
    }
    Ok(DONE)
}

fn rule(output: &mut Output<'_>, host: String, data: MidcomRule) -> Result<(), Failure> {
    output.answer(&Envelope::new(host, data), |out, data| write_rule(out, data))
}

fn write_middlebox(out: &mut dyn Write, data: &MiddleboxData) -> io::Result<()> {
    let words = [
        (data.firewall, "firewall"),
        (data.nat, "NAT"),
        (data.port_translation, "port translation"),
        (data.twice_nat, "twice-NAT"),
        (data.internal_wildcard, "internal wildcards"),
        (data.external_wildcard, "external wildcards"),
        (data.port_wildcard, "port wildcards"),
        (data.persistent, "persistent rules"),
    ];
    let words: Vec<&str> = words.iter().filter(|(there, _)| *there).map(|(_, word)| *word).collect();
    writeln!(out, "middlebox    {}", words.join(", "))?;
    let list = |versions: &[u8]| {
        versions.iter().map(|version| format!("IPv{version}")).collect::<Vec<_>>().join(", ")
    };
    writeln!(out, "inside       {}", list(&data.internal_versions))?;
    writeln!(out, "outside      {}", list(&data.external_versions))?;
    writeln!(out, "lifetime     at most {} s", data.max_lifetime_seconds)?;
    if let Some(seconds) = data.idle_timeout_seconds {
        writeln!(out, "idle         rules end after {seconds} s without use")?;
    }
    if let Some(sessions) = data.max_sessions {
        writeln!(out, "sessions     at most {sessions}")?;
    }
    writeln!(out, "extensions   {:#x}", data.extensions)
}

fn shown(end: &EndData) -> String {
    if end.prefix_length == 0 {
        return "any".to_owned();
    }
    let six = end.address.contains(':');
    let mut text = if six { format!("[{}]", end.address) } else { end.address.clone() };
    if end.prefix_length < if six { 128 } else { 32 } {
        text = format!("{text}/{}", end.prefix_length);
    }
    match (end.port, end.ports) {
        (0, _) => {}
        (port, 0 | 1) => text = format!("{text}:{port}"),
        (port, ports) => {
            let last = u32::from(port) + u32::from(ports) - 1;
            text = format!("{text}:{port}-{last}");
        }
    }
    text
}

fn write_rule(out: &mut dyn Write, rule: &MidcomRule) -> io::Result<()> {
    write!(out, "rule {}  group {}  {}  {}", rule.rule, rule.group, rule.action, rule.protocol)?;
    if let Some(direction) = &rule.direction {
        write!(out, " {direction}")?;
    }
    let ends = [("internal", &rule.internal), ("outside", &rule.outside), ("external", &rule.external)];
    for (name, end) in ends {
        if let Some(end) = end {
            write!(out, "  {name} {}", shown(end))?;
        }
    }
    write!(out, "  {} s", rule.lifetime_seconds)?;
    if let Some(owner) = &rule.owner {
        write!(out, "  owner {}", printable(owner))?;
    }
    writeln!(out)
}

fn write_lifetime(out: &mut dyn Write, data: &LifetimeData) -> io::Result<()> {
    let what = match (data.rule, data.group) {
        (Some(rule), _) => format!("rule {rule}"),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => String::new(),
    };
    if data.deleted {
        writeln!(out, "{what}  deleted")
    } else {
        writeln!(out, "{what}  {} s", data.lifetime_seconds)
    }
}

fn write_event(out: &mut dyn Write, event: &data::EventData) -> io::Result<()> {
    write!(out, "{}", event.event)?;
    if let Some(rule) = event.rule {
        write!(out, " {rule}")?;
    }
    if let Some(group) = event.group {
        write!(out, " {group}")?;
    }
    match event.lifetime_seconds {
        Some(0) => write!(out, "  ended")?,
        Some(seconds) => write!(out, "  {seconds} s")?,
        None => {}
    }
    if let Some(rules) = &event.rules {
        write!(out, "  {} rules", rules.len())?;
    }
    if let Some(reason) = &event.reason {
        write!(out, "  {}", printable(reason))?;
    }
    writeln!(out)
}

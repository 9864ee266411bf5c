//! Agents: their names, zones and whom they take over.

use super::{Zones, distinct};
use crate::model::{Config, Side};
use crate::read::{Document, quoted};
use crate::value::Name;

/// Reports what is wrong with agents and front ends.
pub(super) fn check(config: &Config, zones: &Zones<'_>, document: &mut Document<'_>) {
    let names = config.agents.iter().enumerate();
    distinct(
        document,
        names
            .filter(|(_, agent)| !agent.name.is_empty())
            .map(|(i, agent)| (format!("agent[{i}].name"), agent.name.as_str())),
        |name, first, _| format!("{} is the name of {first} already", quoted(name)),
    );
    for (i, agent) in config.agents.iter().enumerate() {
        inside_zones(config, zones, &agent.zones, &format!("agent[{i}].zones"), document);
        for (j, other) in agent.takes_over.iter().enumerate() {
            if !config.agents.iter().any(|agent| agent.name == *other) {
                let path = format!("agent[{i}].takes_over[{j}]");
                document.refuse(&path, format!("{} is no [[agent]]: name one of them", quoted(other)));
            }
        }
    }
    inside_zones(config, zones, &config.simco.zones, "simco.zones", document);
    crate::simco::check(&config.simco, document);
    inside_zones(config, zones, &config.pcp.zones, "pcp.zones", document);
    inside_zones(config, zones, &config.pcp.nat_pmp, "pcp.nat_pmp", document);
    let (least, most) = (config.pcp.lifetime_min, config.pcp.lifetime);
    if least > most && !document.is_faulty("pcp.lifetime_min") && !document.is_faulty("pcp.lifetime") {
        document.refuse("pcp.lifetime_min", format!("{least} s is longer than lifetime, {most} s"));
    }
    for (i, third) in config.third_parties.iter().enumerate() {
        for (j, hosts) in third.hosts.iter().enumerate() {
            if hosts.is_v4() != third.clients.is_v4() {
                let path = format!("third_party[{i}].hosts[{j}]");
                document.refuse(&path, format!("\"{hosts}\" is of another family than clients"));
            }
        }
    }
}

fn inside_zones(config: &Config, zones: &Zones<'_>, names: &[Name], path: &str, document: &mut Document<'_>) {
    for (i, name) in names.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(zone) = zones.expect(document, &path, name, false) else { continue };
        let outside = config.zones.get(zone).is_some_and(|zone| zone.side == Side::Outside);
        if outside && !document.is_faulty(&format!("zone[{zone}].side")) {
            let name = quoted(name.as_str());
            document.refuse(&path, format!("{name} is an outside zone: rules are for hosts of inside zones"));
        }
    }
}

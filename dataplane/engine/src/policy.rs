//! The compiled policy: zones, pools, NAT rules, firewall rules, timeouts.

use crate::Interface;
use crate::classifier::Classifier;
use core::hash::Hasher;
use std::hash::DefaultHasher;
use turnpike_abi::counters::FirewallAction;
use turnpike_abi::deterministic::Plan;
use turnpike_abi::event::Tuple;
use turnpike_abi::table::{
    Action, Filtering, FirewallRuleRecord, InterfaceRecord, MAX_FRAGMENTS_WAITING, MAX_RECORDS, MAX_RULES,
    NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord, Reader, SettingsRecord, Side, TableFault,
    TableKind, ZonePairRecord, ZoneRecord, policy as section,
};
use turnpike_abi::{Address, InterfaceId, MAX_POOLS, MAX_ZONES, PoolId, Prefix, ZoneId};
use zerocopy::IntoBytes;

/// Longest timeout in seconds: a week.
const MAX_TIMEOUT: u32 = 7 * 24 * 3600;
/// Most addresses of all pools: a worker has 12 kB of address space for each.
const MAX_POOL_ADDRESSES: u64 = 65536;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;

/// The compiled policy; immutable, shared by the workers.
#[derive(Debug)]
pub struct Policy {
    generation: u64,
    pub(crate) settings: SettingsRecord,
    zones: Vec<ZoneRecord>,
    /// By interface.
    members: Vec<Option<InterfaceRecord>>,
    pools: Vec<PoolRecord>,
    /// Sorted by first address, disjoint.
    ranges: Vec<PoolRange>,
    nat: Classifier,
    /// What each NAT rule says.
    nat_verdicts: Vec<NatVerdict>,
    firewall: Classifier,
    /// What each firewall rule says, and which of the configuration's it is of.
    actions: Vec<(FirewallAction, u16)>,
    /// Tells policies with other firewall rules apart.
    fingerprint: u64,
    defaults: [[FirewallAction; MAX_ZONES]; MAX_ZONES],
}

#[derive(Clone, Copy, Debug)]
struct PoolRange {
    first: u32,
    last: u32,
    pool: PoolId,
}

/// Address and port of a packet's first-match lookup in the firewall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstPacket {
    pub(crate) from: ZoneId,
    pub(crate) to: ZoneId,
    /// Addresses and ports as the inside sees them.
    pub(crate) tuple: Tuple,
    /// Type and code of an ICMP message.
    pub(crate) icmp: Option<(u8, u8)>,
}

/// What the firewall says, and whether a rule or the default said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: FirewallAction,
    pub(crate) by_rule: bool,
    /// Which rule, if one did.
    pub(crate) rule: u16,
}

/// What the NAT rules say about a flow from an inside to an outside zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatVerdict {
    Translate(PoolId),
    Exempt,
    NoRule,
}

impl Policy {
    /// Decodes and checks a policy table.
    ///
    /// # Errors
    /// Says what is wrong and where; the caller keeps the policy it has.
    pub fn decode(table: &[u8], interfaces: &[Interface]) -> Result<Self, TableFault> {
        let reader = Reader::new(table)?;
        if reader.kind() != TableKind::POLICY {
            return Err(TableFault { offset: 16, what: "not a policy table" });
        }
        let &[settings] = reader.section::<SettingsRecord>(section::SETTINGS)? else {
            return Err(TableFault { offset: 0, what: "a policy has exactly one settings record" });
        };
        check(&reader, section::SETTINGS, &[settings], |settings: &SettingsRecord| {
            let timers = [
                settings.udp,
                settings.icmp,
                settings.tcp_established,
                settings.tcp_opening,
                settings.tcp_closing,
                settings.other,
            ];
            if timers.iter().any(|&seconds| seconds == 0 || seconds > MAX_TIMEOUT) {
                return Err("a timeout is 0 or longer than a week");
            }
            if !(1..=60).contains(&settings.fragment)
                || settings.fragments_waiting > MAX_FRAGMENTS_WAITING
                || settings.fragments_per_source == 0
            {
                return Err("a limit of fragments is out of range");
            }
            if settings.neighbour_wait_ms > 60_000 || settings.mss_clamp > 1 || settings.icmp_rate > 1_000_000
            {
                return Err("a setting is out of range");
            }
            Ok(())
        })?;
        let zones = reader.section::<ZoneRecord>(section::ZONES)?;
        if zones.len() > MAX_ZONES {
            return Err(TableFault {
                offset: reader.offset_of::<ZoneRecord>(section::ZONES, 0),
                what: "too many zones",
            });
        }
        check(&reader, section::ZONES, zones, |zone| match zone.side {
            Side::INSIDE | Side::OUTSIDE => Ok(()),
            _ => Err("zone is neither inside nor outside"),
        })?;
        let known = |zone: ZoneId| zone.index() < zones.len();
        let known_or_any = |zone: ZoneId| zone == ZoneId::ANY || known(zone);

        let mut members = vec![None; interfaces.len()];
        let records = reader.section::<InterfaceRecord>(section::INTERFACES)?;
        check(&reader, section::INTERFACES, records, |record: &InterfaceRecord| {
            let at = record.interface.index();
            let (Some(member), Some(interface)) = (members.get_mut(at), interfaces.get(at)) else {
                return Err("no such interface");
            };
            if !known(record.zone) {
                return Err("interface in an unknown zone");
            }
            if !(68..=9600).contains(&record.mtu) {
                return Err("MTU out of range");
            }
            // The device and the buffers were set up for the MTU of the start.
            *member = Some(InterfaceRecord { mtu: record.mtu.min(interface.mtu), ..*record });
            Ok(())
        })?;

        let pools = reader.section::<PoolRecord>(section::POOLS)?;
        if pools.len() > MAX_POOLS {
            return Err(TableFault {
                offset: reader.offset_of::<PoolRecord>(section::POOLS, 0),
                what: "too many pools",
            });
        }
        check(&reader, section::POOLS, pools, |pool| {
            if !known(pool.zone) || pool.proxy_arp > 1 {
                return Err("pool in an unknown zone");
            }
            if pool.port_first == 0 || pool.port_first > pool.port_last {
                return Err("port range of a pool is empty");
            }
            sound_blocks(pool)
        })?;
        let mut ranges = Vec::new();
        let mut addresses = 0;
        let records = reader.section::<PoolRangeRecord>(section::POOL_RANGES)?;
        check(&reader, section::POOL_RANGES, records, |record: &PoolRangeRecord| {
            if record.pool.index() >= pools.len() {
                return Err("range of an unknown pool");
            }
            let range = PoolRange {
                first: u32::from_be_bytes(record.first),
                last: u32::from_be_bytes(record.last),
                pool: record.pool,
            };
            if range.first > range.last {
                return Err("address range of a pool is empty");
            }
            addresses += u64::from(range.last - range.first) + 1;
            if addresses > MAX_POOL_ADDRESSES {
                return Err("pools have more than 65536 addresses");
            }
            ranges.push(range);
            Ok(())
        })?;
        ranges.sort_unstable_by_key(|range| range.first);
        if ranges.windows(2).any(|pair| matches!(pair, [a, b] if a.last >= b.first)) {
            let offset = reader.offset_of::<PoolRangeRecord>(section::POOL_RANGES, 0);
            return Err(TableFault { offset, what: "address ranges of pools overlap" });
        }

        for (id, (record, pool)) in pools.iter().enumerate().map(|(id, pool)| (PoolId(id as u16), (id, pool)))
        {
            let of_pool = ranges.iter().filter(|range| range.pool == id);
            let addresses = of_pool.map(|range| range.last - range.first + 1).sum();
            if pool.flags & PoolRecord::DETERMINISTIC != 0
                && let Err(what) = Plan::new(pool, addresses, 1)
            {
                let offset = reader.offset_of::<PoolRecord>(section::POOLS, record);
                return Err(TableFault { offset, what });
            }
        }

        let nat = reader.section::<NatRuleRecord>(section::NAT_RULES)?;
        limit(&reader, section::NAT_RULES, nat)?;
        let mut nat_verdicts = Vec::new();
        check(&reader, section::NAT_RULES, nat, |rule| {
            if !known_or_any(rule.from) || !known_or_any(rule.to) {
                return Err("NAT rule for an unknown zone");
            }
            if !rule.source.is_canonical() || !rule.destination.is_canonical() {
                return Err("prefix of a NAT rule is malformed");
            }
            nat_verdicts.push(match rule.action {
                NatAction::TRANSLATE if rule.pool.index() < pools.len() => NatVerdict::Translate(rule.pool),
                NatAction::TRANSLATE => return Err("NAT rule for an unknown pool"),
                NatAction::EXEMPT => NatVerdict::Exempt,
                _ => return Err("unknown action of a NAT rule"),
            });
            Ok(())
        })?;
        let addresses_only: Vec<FirewallRuleRecord> = nat.iter().map(as_firewall_rule).collect();
        let nat_rules = classifier(&reader, section::NAT_RULES, &addresses_only, zones.len())?;
        let rules = reader.section::<FirewallRuleRecord>(section::FIREWALL_RULES)?;
        limit(&reader, section::FIREWALL_RULES, rules)?;
        let mut actions = Vec::new();
        check(&reader, section::FIREWALL_RULES, rules, |rule| {
            if !known_or_any(rule.from) || !known_or_any(rule.to) {
                return Err("firewall rule for an unknown zone");
            }
            if !rule.source.is_canonical() || !rule.destination.is_canonical() {
                return Err("prefix of a firewall rule is malformed");
            }
            let byte_or_any = |value: u16| value <= 0xff || value == FirewallRuleRecord::ANY;
            if ![rule.protocol, rule.icmp_type, rule.icmp_code].into_iter().all(byte_or_any) {
                return Err("protocol, type or code of a firewall rule is out of range");
            }
            if !matches!(rule.family, 0 | 4 | 6) {
                return Err("family of a firewall rule is neither 4, 6 nor 0");
            }
            if usize::from(rule.rule) >= MAX_RULES {
                return Err("number of a firewall rule is out of range");
            }
            actions.push((action(rule.action)?, rule.rule));
            Ok(())
        })?;
        let firewall = classifier(&reader, section::FIREWALL_RULES, rules, zones.len())?;
        let mut hasher = DefaultHasher::new();
        hasher.write(rules.as_bytes());
        let mut defaults = [[FirewallAction::Drop; MAX_ZONES]; MAX_ZONES];
        let pairs = reader.section::<ZonePairRecord>(section::ZONE_PAIRS)?;
        check(&reader, section::ZONE_PAIRS, pairs, |pair| {
            if !known(pair.from) || !known(pair.to) {
                return Err("default for an unknown zone");
            }
            let cell = defaults.get_mut(pair.from.index()).and_then(|row| row.get_mut(pair.to.index()));
            *cell.ok_or("default for an unknown zone")? = action(pair.action)?;
            Ok(())
        })?;

        Ok(Self {
            generation: reader.generation(),
            settings,
            zones: zones.to_vec(),
            members,
            pools: pools.to_vec(),
            ranges,
            nat: nat_rules,
            nat_verdicts,
            firewall,
            actions,
            fingerprint: hasher.finish(),
            defaults,
        })
    }

    /// Generation of the table it came from.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether flows may be overdue that were not by the timeouts of `old`.
    pub(crate) fn has_shorter_timeouts_than(&self, old: &Self) -> bool {
        let timeouts = |policy: &Self| {
            let set = &policy.settings;
            [set.udp, set.icmp, set.tcp_established, set.tcp_opening, set.tcp_closing, set.other]
        };
        timeouts(self).into_iter().zip(timeouts(old)).any(|(new, old)| new < old)
    }

    /// The zone of an interface.
    pub(crate) fn zone_of(&self, interface: InterfaceId) -> Option<ZoneId> {
        self.members.get(interface.index()).copied().flatten().map(|member| member.zone)
    }

    /// Largest IP packet in bytes that an interface takes.
    pub(crate) fn mtu_of(&self, interface: InterfaceId) -> Option<u16> {
        self.members.get(interface.index()).copied().flatten().map(|member| member.mtu)
    }

    /// The side of a zone.
    pub(crate) fn side_of(&self, zone: ZoneId) -> Side {
        self.zones.get(zone.index()).map_or(Side::OUTSIDE, |record| record.side)
    }

    /// A pool.
    pub(crate) fn pool(&self, pool: PoolId) -> Option<&PoolRecord> {
        self.pools.get(pool.index())
    }

    /// The pool that holds an external address.
    pub(crate) fn pool_of(&self, address: Address) -> Option<PoolId> {
        self.pool_of_v4(address.to_v4()?)
    }

    /// As [`Policy::pool_of`], of an IPv4 address.
    #[inline(always)]
    pub(crate) fn pool_of_v4(&self, address: [u8; 4]) -> Option<PoolId> {
        let address = u32::from_be_bytes(address);
        let at = self.ranges.partition_point(|range| range.first <= address);
        let range = self.ranges.get(at.checked_sub(1)?)?;
        (address <= range.last).then_some(range.pool)
    }

    /// First and last address of each range of a pool.
    pub(crate) fn ranges_of(&self, pool: PoolId) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().filter(move |range| range.pool == pool).map(|range| (range.first, range.last))
    }

    /// Pools by id.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (PoolId, &PoolRecord)> {
        self.pools.iter().enumerate().map(|(index, pool)| (PoolId(index as u16), pool))
    }

    /// What the NAT rules say about a flow.
    pub(crate) fn nat(&self, from: ZoneId, to: ZoneId, source: Address, destination: Address) -> NatVerdict {
        let tuple = Tuple { source, destination, ..Tuple::default() };
        self.nat_of(&FirstPacket { from, to, tuple, icmp: None })
    }

    /// As [`Policy::nat`], of a packet whose ports the rules do not look at.
    pub(crate) fn nat_of(&self, packet: &FirstPacket) -> NatVerdict {
        let rule = self.nat.first_match(packet);
        rule.and_then(|rule| self.nat_verdicts.get(rule)).copied().unwrap_or(NatVerdict::NoRule)
    }

    /// A fingerprint of the firewall's rules, and how many of the configuration's they are of.
    pub(crate) fn rules(&self) -> (u64, usize) {
        let last = self.actions.iter().map(|(_, rule)| usize::from(*rule) + 1).max();
        (self.fingerprint, last.unwrap_or(0))
    }

    /// What the firewall says about the first packet of a flow.
    pub(crate) fn firewall(&self, packet: &FirstPacket) -> Verdict {
        let rule = self.firewall.first_match(packet);
        if let Some(&(action, rule)) = rule.and_then(|rule| self.actions.get(rule)) {
            return Verdict { action, by_rule: true, rule };
        }
        let row = self.defaults.get(packet.from.index());
        let action = row.and_then(|row| row.get(packet.to.index())).copied().unwrap_or(FirewallAction::Drop);
        Verdict { action, by_rule: false, rule: 0 }
    }
}

/// Checks what a pool says of blocks, limits and filtering.
fn sound_blocks(pool: &PoolRecord) -> Result<(), &'static str> {
    if !pool.block_size.is_power_of_two() || !(64..=4096).contains(&pool.block_size) {
        return Err("block size of a pool is no power of two from 64 to 4096");
    }
    if pool.quarantine > PoolRecord::MAX_QUARANTINE || pool.quarantine_tcp > PoolRecord::MAX_QUARANTINE {
        return Err("quarantine of a pool is longer than an hour");
    }
    if pool.flags & !(PoolRecord::DETERMINISTIC | PoolRecord::PARITY) != 0 {
        return Err("unknown flag of a pool");
    }
    if pool.subscriber_rate > 1_000_000 || pool.subscriber_burst > 1_000_000 {
        return Err("rate of a pool is out of range");
    }
    match pool.filtering {
        Filtering::ENDPOINT_INDEPENDENT
        | Filtering::ADDRESS_DEPENDENT
        | Filtering::ADDRESS_AND_PORT_DEPENDENT => Ok(()),
        _ => Err("unknown filtering of a pool"),
    }
}

fn action(action: Action) -> Result<FirewallAction, &'static str> {
    match action {
        Action::ACCEPT => Ok(FirewallAction::Accept),
        Action::DROP => Ok(FirewallAction::Drop),
        Action::REJECT => Ok(FirewallAction::Reject),
        _ => Err("unknown action"),
    }
}

/// A NAT rule in the terms of the classifier, which compares its zones and prefixes.
fn as_firewall_rule(rule: &NatRuleRecord) -> FirewallRuleRecord {
    FirewallRuleRecord {
        source: rule.source,
        destination: rule.destination,
        source_ports: [0, u16::MAX],
        destination_ports: [0, u16::MAX],
        protocol: FirewallRuleRecord::ANY,
        icmp_type: FirewallRuleRecord::ANY,
        icmp_code: FirewallRuleRecord::ANY,
        from: rule.from,
        to: rule.to,
        ..FirewallRuleRecord::default()
    }
}

fn limit<T>(reader: &Reader<'_>, section: usize, rules: &[T]) -> Result<(), TableFault> {
    if rules.len() > MAX_RECORDS {
        return Err(TableFault {
            offset: reader.offset_of::<T>(section, MAX_RECORDS),
            what: "too many rules",
        });
    }
    Ok(())
}

/// An index of the rules of a section.
fn classifier(
    reader: &Reader<'_>,
    section: usize,
    rules: &[FirewallRuleRecord],
    zones: usize,
) -> Result<Classifier, TableFault> {
    let offset = reader.offset_of::<FirewallRuleRecord>(section, 0);
    Classifier::new(rules, zones).map_err(|what| TableFault { offset, what })
}

/// Whether packets of `protocol` carry ports.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP)
}

/// Runs `verify` over the records of a section and says where the first bad one lies.
fn check<T>(
    reader: &Reader<'_>,
    section: usize,
    records: &[T],
    mut verify: impl FnMut(&T) -> Result<(), &'static str>,
) -> Result<(), TableFault> {
    for (index, record) in records.iter().enumerate() {
        verify(record).map_err(|what| TableFault { offset: reader.offset_of::<T>(section, index), what })?;
    }
    Ok(())
}

/// Private and shared address space that must not leave an outside zone (RFC 1918, RFC 6598; BCP 38).
pub(crate) fn is_private(address: Address) -> bool {
    let Some([a, b, _, _]) = address.to_v4() else { return false };
    a == 10 || (a == 172 && b & 0xf0 == 16) || (a == 192 && b == 168) || (a == 100 && b & 0xc0 == 64)
}

/// Whether `prefix` lets `address` and `port` in.
pub(crate) fn admits(prefix: &Prefix, ports: [u16; 2], address: Address, port: u16) -> bool {
    prefix.contains(address) && (ports[0]..=ports[1]).contains(&port)
}

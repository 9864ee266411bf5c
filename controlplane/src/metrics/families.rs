//! Every metric of the box: names, help and labels (they are an API: `golden.txt` holds them), and values from
//! a reading. Every series is there from the start, with 0 where nothing was counted yet.

use super::family::Family;
use crate::facts::{Apply, Facts, STATES, TransactionKey};
use crate::reading::Reading;
use turnpike_abi::counters::{
    BURST_BUCKETS, Counter, Counters, Direction, DropReason, FirewallAction, FlowEnd, IcmpKind,
    ProtocolClass, SIZE_BUCKETS, TcpState,
};
use turnpike_abi::stats::{PortStats, text};
use turnpike_abi::{MAX_ZONES, ZoneId};
use turnpike_policy::{Ended, Front};

/// How long the scrape took that this belongs to.
pub fn scrape_duration(seconds: f64) -> Family {
    Family::gauge("turnpike_scrape_duration_seconds", "Time this scrape took to collect.", &[])
        .row(&[], seconds)
}

/// Every family, in the order of the exposition's source; `duration` is the scrape's.
pub fn all(reading: &Reading, facts: &Facts, duration: f64) -> Vec<Family> {
    let total = reading.total();
    let mut families = control(reading, facts);
    families.extend(super::pcp::families(facts));
    families.extend(super::simco::families(facts));
    families.extend(super::log::families(facts, &total));
    families.extend(ports(reading, facts));
    families.extend(workers(reading, facts));
    families.extend(traffic(&total));
    families.extend(tables(&total));
    families.extend(pools(&total, facts));
    families.extend(super::subscribers::families(&total));
    families.extend(icmp(&total));
    families.extend(firewall(&total, facts));
    families.extend(dataplane(reading, &total));
    families.extend(super::process::families());
    if duration > 0.0 {
        families.push(scrape_duration(duration));
    }
    families
}

const fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn control(reading: &Reading, facts: &Facts) -> Vec<Family> {
    let dpdk = reading.identity.as_ref().map_or("", |identity| text(&identity.dpdk_version)).to_owned();
    vec![
        Family::gauge(
            "turnpike_build_info",
            "Version of the control plane, its commit and compiler, and DPDK of the attached dataplane.",
            &["version", "commit", "rustc", "dpdk"],
        )
        .row(
            &[
                env!("CARGO_PKG_VERSION"),
                env!("TURNPIKE_COMMIT"),
                env!("TURNPIKE_RUSTC"),
                if dpdk.is_empty() { "unknown" } else { &dpdk },
            ],
            1.0,
        ),
        Family::gauge("turnpike_start_time_seconds", "Start of the control plane since the epoch.", &[])
            .row(&[], seconds(facts.started_ms)),
        Family::gauge("turnpike_config_info", "Hash of the configuration in force.", &["hash"])
            .row(&[&facts.shape.hash], 1.0),
        Family::gauge(
            "turnpike_config_last_apply_success",
            "Whether the last attempt to bring a configuration into force succeeded.",
            &[],
        )
        .row(&[], flag(facts.last_apply_ok)),
        Family::gauge(
            "turnpike_config_last_apply_timestamp_seconds",
            "When the last attempt to bring a configuration into force ended, since the epoch.",
            &[],
        )
        .row(&[], seconds(facts.last_apply_ms)),
        Family::counter(
            "turnpike_config_apply_total",
            "Attempts to bring a configuration into force, by their end.",
            &["result"],
        )
        .each(Apply::ALL.iter().zip(facts.applies), |(result, count)| {
            (vec![result.name().into()], *count as f64)
        }),
        Family::gauge(
            "turnpike_ready",
            "1 while packets are forwarded: attached, every worker alive, with a policy and a forwarding table.",
            &[],
        )
        .row(&[], flag(facts.ready(reading))),
        Family::gauge("turnpike_attached", "1 while a dataplane is attached.", &[])
            .row(&[], flag(facts.attached)),
        Family::counter("turnpike_attachments_total", "Times a dataplane was attached.", &[])
            .row(&[], facts.attachments as f64),
        Family::counter(
            "turnpike_dataplane_violations_total",
            "Times the dataplane broke the protocol of the socket or of a ring.",
            &[],
        )
        .row(&[], facts.dataplane_violations as f64),
        Family::gauge("turnpike_pinholes", "Pinholes, by state.", &["state"])
            .each(STATES.iter().zip(facts.pinholes), |(state, count)| {
                (vec![state.name().into()], *count as f64)
            }),
        Family::counter("turnpike_pinhole_requests_total", "Requests for pinholes, by their end.", &["result"])
            .each(["granted", "refused"].iter().zip(facts.pinhole_requests), |(result, count)| {
                (vec![(**result).into()], *count as f64)
            }),
        Family::gauge("turnpike_rules", "Rules of every front end, those under way included.", &[])
            .row(&[], facts.rules as f64),
        Family::counter("turnpike_rules_ended_total", "Rules that ended, by why.", &["reason"])
            .each(Ended::ALL.iter().zip(facts.rules_ended), |(why, count)| {
                (vec![why.name().into()], *count as f64)
            }),
        Family::gauge("turnpike_midcom_sessions", "Open sessions of agents, by front end.", &["front"])
            .each(Front::ALL.iter().zip(facts.sessions), |(front, count)| {
                (vec![front.name().into()], *count as f64)
            }),
        Family::counter(
            "turnpike_midcom_transactions_total",
            "Transactions (RFC 5189), by front end and by their end: ok, or why they were refused.",
            &["front", "transaction", "result"],
        )
        .each(&transactions(facts), |(key, count)| {
            let labels = [key.front.name(), key.transaction, key.result];
            (labels.map(Into::into).to_vec(), *count as f64)
        }),
        Family::counter("turnpike_audit_lines_lost_total", "Lines of the audit log that could not be written.", &[])
            .row(&[], facts.audit_lost as f64),
        Family::counter("turnpike_api_requests_total", "Requests over the CLI's socket, by their end.", &["result"])
            .each(["ok", "error"].iter().zip(facts.api_requests), |(result, count)| {
                (vec![(**result).into()], *count as f64)
            }),
        Family::counter(
            "turnpike_journal_write_failures_total",
            "Notes that could not be made durable.",
            &[],
        )
        .row(&[], facts.journal_failures as f64),
        Family::counter("turnpike_kernel_dumps_total", "Times the kernel's tables were read whole.", &[])
            .row(&[], facts.kernel_dumps as f64),
        Family::counter(
            "turnpike_neighbour_resolutions_total",
            "Times the kernel was made to look for a neighbour.",
            &[],
        )
        .row(&[], facts.resolutions as f64),
    ]
}

/// Every transaction that was seen, and success of every one from the start.
fn transactions(facts: &Facts) -> Vec<(TransactionKey, u64)> {
    let mut all = facts.transactions.clone();
    for front in Front::ALL {
        for transaction in ["prr", "per", "rlc", "glc"] {
            all.entry(TransactionKey { front, transaction, result: "ok" }).or_default();
        }
    }
    let mut list: Vec<_> = all.into_iter().collect();
    list.sort_unstable();
    list
}

fn ports(reading: &Reading, facts: &Facts) -> Vec<Family> {
    let count = facts.shape.ports.len().max(reading.ports.len());
    let list: Vec<(String, PortStats)> = (0..count)
        .map(|index| {
            let stats = reading.ports.get(index).copied().unwrap_or_default();
            let name = match text(&stats.name) {
                "" => facts.shape.ports.get(index).cloned().unwrap_or_else(|| index.to_string()),
                name => name.to_owned(),
            };
            (name, stats)
        })
        .collect();
    let family = |family: Family, value: fn(&PortStats) -> u64| {
        family.each(&list, |(name, stats)| (vec![name.clone()], value(stats) as f64))
    };
    let counter = |name, help, value| family(Family::counter(name, help, &["port"]), value);
    let gauge = |name, help, value| family(Family::gauge(name, help, &["port"]), value);
    let steering = list.iter().flat_map(|(name, stats)| {
        [("ipv4", stats.steering_v4), ("ipv6", stats.steering_v6)]
            .map(|(family, means)| (name, family, means))
    });
    vec![
        Family::gauge(
            "turnpike_port_steering_info",
            "How packets come to the queue of their owner: 1 for the means in use.",
            &["port", "family", "means"],
        )
        .each(steering.collect::<Vec<_>>(), |(name, family, means)| {
            (vec![(*name).clone(), (*family).to_owned(), means.name().to_owned()], 1.0)
        }),
        gauge("turnpike_port_link_up", "1 while the link is up.", |port| port.link_up),
        gauge("turnpike_port_speed_bytes_per_second", "Speed of the link, 0 if unknown.", |port| {
            port.speed / 8
        }),
        counter("turnpike_port_receive_packets_total", "Packets the port received.", |port| port.rx_packets),
        counter("turnpike_port_receive_bytes_total", "Bytes the port received.", |port| port.rx_bytes),
        counter("turnpike_port_transmit_packets_total", "Packets the port sent.", |port| port.tx_packets),
        counter("turnpike_port_transmit_bytes_total", "Bytes the port sent.", |port| port.tx_bytes),
        counter(
            "turnpike_port_receive_missed_total",
            "Packets the port dropped because its queue was full.",
            |port| port.rx_missed,
        ),
        counter("turnpike_port_receive_errors_total", "Packets received with errors.", |port| port.rx_errors),
        counter("turnpike_port_receive_nombuf_total", "Receptions that found no buffer.", |port| {
            port.rx_nombuf
        }),
        counter("turnpike_port_transmit_dropped_total", "Packets not sent because of errors.", |port| {
            port.tx_errors
        }),
    ]
}

fn workers(reading: &Reading, facts: &Facts) -> Vec<Family> {
    let none = Counters::default();
    let count = facts.shape.workers.max(reading.workers.len());
    let list: Vec<(String, &Counters)> =
        (0..count).map(|index| (index.to_string(), reading.workers.get(index).unwrap_or(&none))).collect();
    let plain = |family: Family, value: fn(&Counters) -> f64| {
        family.each(&list, |(name, worker)| (vec![name.clone()], value(worker)))
    };
    let labelled = |family: Family, cells: &[(&str, Counter)]| {
        let cells = list.iter().flat_map(|(name, worker)| {
            cells.iter().map(move |(label, counter)| (name.clone(), *label, worker.get(*counter)))
        });
        family.each(cells.collect::<Vec<_>>(), |(name, label, value)| {
            (vec![name.clone(), (*label).to_owned()], *value as f64)
        })
    };
    let mut batches =
        Family::histogram("turnpike_worker_batch_packets", "Packets in a non-empty burst.", &["worker"]);
    for (name, worker) in &list {
        let buckets = bounds(&BURST_BUCKETS).map(|(at, bound)| (bound, worker.burst_sizes(at))).collect();
        batches = batches.bars(vec![name.clone()], buckets, worker.get(Counter::Received));
    }
    let rings = list.iter().flat_map(|(name, worker)| {
        [
            ("handoff", worker.drops(DropReason::CrossingRingFull)),
            ("punt", worker.drops(DropReason::PuntRingFull)),
            ("events", worker.get(Counter::EventsDropped)),
        ]
        .map(|(ring, value)| (name.clone(), ring, value))
    });
    vec![
        plain(
            Family::counter("turnpike_worker_packets_total", "Packets taken from ports.", &["worker"]),
            |w| w.get(Counter::Received) as f64,
        ),
        labelled(
            Family::counter(
                "turnpike_worker_path_packets_total",
                "Packets of a worker by where they came from or went; drops are in turnpike_drops_total.",
                &["worker", "path"],
            ),
            &[
                ("received", Counter::Received),
                ("sent", Counter::Sent),
                ("punted", Counter::Punted),
                ("injected", Counter::Injected),
                ("generated", Counter::Generated),
                ("crossed_in", Counter::CrossedIn),
                ("crossed_out", Counter::CrossedOut),
            ],
        ),
        labelled(
            Family::counter(
                "turnpike_worker_cycles_total",
                "TSC cycles, by what they were spent on.",
                &["worker", "state"],
            ),
            &[
                ("busy", Counter::CyclesBusy),
                ("idle", Counter::CyclesIdle),
                ("housekeeping", Counter::CyclesHousekeeping),
            ],
        ),
        batches,
        Family::counter(
            "turnpike_worker_ring_dropped_total",
            "Packets or events a ring had no room for.",
            &["worker", "ring"],
        )
        .each(rings.collect::<Vec<_>>(), |(name, ring, value)| {
            (vec![name.clone(), (*ring).to_owned()], *value as f64)
        }),
        plain(
            Family::gauge(
                "turnpike_worker_last_heartbeat_timestamp_seconds",
                "When the worker last published its counters, since the epoch.",
                &["worker"],
            ),
            |w| seconds(w.get(Counter::HeartbeatMs)),
        ),
        plain(
            Family::gauge("turnpike_timer_wheel_lag_seconds", "How far timers are behind.", &["worker"]),
            |w| seconds(w.get(Counter::TimerLagMs)),
        ),
        plain(
            Family::counter(
                "turnpike_worker_fast_packets_total",
                "Packets that needed nothing but their flow's record.",
                &["worker"],
            ),
            |w| w.get(Counter::FastPath) as f64,
        ),
        plain(
            Family::counter(
                "turnpike_worker_plain_openings_total",
                "First packets that opened their flow the short way.",
                &["worker"],
            ),
            |w| w.get(Counter::PlainOpenings) as f64,
        ),
        labelled(
            Family::counter(
                "turnpike_worker_commands_total",
                "Commands of the control plane.",
                &["worker", "result"],
            ),
            &[("ok", Counter::Commands), ("refused", Counter::CommandsRefused)],
        ),
        plain(
            Family::counter(
                "turnpike_worker_events_total",
                "Events written to the control plane.",
                &["worker"],
            ),
            |w| w.get(Counter::Events) as f64,
        ),
        plain(
            Family::counter(
                "turnpike_worker_peer_violations_total",
                "Times the worker found the control plane's ring broken or a command malformed.",
                &["worker"],
            ),
            |w| w.get(Counter::PeerViolations) as f64,
        ),
        labelled(
            Family::gauge(
                "turnpike_worker_table_generation",
                "Generation of the table in use, 0 before the first.",
                &["worker", "table"],
            ),
            &[("policy", Counter::PolicyGeneration), ("forwarding", Counter::ForwardingGeneration)],
        ),
    ]
}

/// Upper bounds with their places, the last one infinite.
fn bounds(list: &'static [u16]) -> impl Iterator<Item = (usize, f64)> {
    list.iter().map(|&bound| f64::from(bound)).chain([f64::INFINITY]).enumerate()
}

fn traffic(total: &Counters) -> Vec<Family> {
    let cells: Vec<_> = Direction::ALL
        .iter()
        .flat_map(|&direction| ProtocolClass::ALL.iter().map(move |&class| (direction, class)))
        .collect();
    let by_cell = |family: Family, value: fn((u64, u64)) -> u64| {
        family.each(&cells, |(direction, class)| {
            let labels = vec![direction.name().into(), class.name().into()];
            (labels, value(total.forwarded_by(*direction, *class)) as f64)
        })
    };
    let mut sizes =
        Family::histogram("turnpike_packet_size_bytes", "Ethernet frames forwarded.", &["direction"]);
    for &direction in Direction::ALL {
        let buckets =
            bounds(&SIZE_BUCKETS).map(|(at, bound)| (bound, total.frame_sizes(direction, at))).collect();
        let bytes = ProtocolClass::ALL.iter().map(|&class| total.forwarded_by(direction, class).1).sum();
        sizes = sizes.bars(vec![direction.name().into()], buckets, bytes);
    }
    vec![
        by_cell(
            Family::counter("turnpike_forward_packets_total", "Packets forwarded.", &["direction", "proto"]),
            |(packets, _)| packets,
        ),
        by_cell(
            Family::counter(
                "turnpike_forward_bytes_total",
                "Bytes forwarded, Ethernet header included.",
                &["direction", "proto"],
            ),
            |(_, bytes)| bytes,
        ),
        sizes,
        Family::counter("turnpike_drops_total", "Packets dropped; each has one reason.", &["reason"])
            .each(DropReason::ALL, |reason| (vec![reason.name().into()], total.drops(**reason) as f64)),
        Family::counter("turnpike_hairpin_packets_total", "Packets from inside to inside.", &["proto"])
            .each(ProtocolClass::ALL, |class| {
                (vec![class.name().into()], total.forwarded_by(Direction::Hairpin, **class).0 as f64)
            }),
        Family::counter(
            "turnpike_mss_clamped_total",
            "TCP SYN segments whose MSS was lowered.",
            &["direction"],
        )
        .row(&["in2out"], total.get(Counter::MssClampedIn2Out) as f64)
        .row(&["out2in"], total.get(Counter::MssClampedOut2In) as f64),
    ]
}

fn tables(total: &Counters) -> Vec<Family> {
    let by_class = |family: Family, value: &dyn Fn(ProtocolClass) -> u64| {
        family.each(ProtocolClass::ALL, |class| (vec![class.name().into()], value(**class) as f64))
    };
    let ends: Vec<_> = ProtocolClass::ALL
        .iter()
        .flat_map(|&class| FlowEnd::ALL.iter().map(move |&end| (class, end)))
        .collect();
    let single = |family: Family, counter| family.row(&[], total.get(counter) as f64);
    vec![
        by_class(Family::gauge("turnpike_sessions", "Flows now.", &["proto"]), &|class| total.flows(class).0),
        single(
            Family::gauge("turnpike_sessions_limit", "Flows all workers can hold.", &[]),
            Counter::FlowsLimit,
        ),
        Family::gauge("turnpike_sessions_by_state", "Flows now, by TCP state.", &["state"])
            .each(TcpState::ALL, |state| (vec![state.name().into()], total.flows_in(**state) as f64)),
        by_class(
            Family::counter("turnpike_session_creations_total", "Flows created.", &["proto"]),
            &|class| total.flows(class).1,
        ),
        Family::counter("turnpike_session_deletions_total", "Flows ended.", &["proto", "cause"]).each(
            &ends,
            |(class, end)| {
                let labels = vec![class.name().into(), end.name().into()];
                (labels, total.flows_ended(*class, *end) as f64)
            },
        ),
        by_class(Family::gauge("turnpike_mappings", "Bindings now.", &["proto"]), &|class| {
            total.bindings(class).0
        }),
        single(
            Family::gauge("turnpike_mappings_limit", "Bindings all workers can hold.", &[]),
            Counter::BindingsLimit,
        ),
        by_class(
            Family::counter("turnpike_mapping_creations_total", "Bindings created.", &["proto"]),
            &|class| total.bindings(class).1,
        ),
        single(
            Family::gauge("turnpike_subscribers_active", "Inside addresses with a binding.", &[]),
            Counter::Subscribers,
        ),
        single(
            Family::gauge("turnpike_pinholes_installed", "Pinholes the workers have.", &[]),
            Counter::Pinholes,
        ),
        single(
            Family::counter(
                "turnpike_eim_hits_total",
                "New flows that used an existing endpoint-independent mapping.",
                &[],
            ),
            Counter::EimHits,
        ),
        single(
            Family::counter(
                "turnpike_eif_hits_total",
                "New flows from outside that endpoint-independent filtering accepted.",
                &[],
            ),
            Counter::EifHits,
        ),
        single(
            Family::counter(
                "turnpike_eif_filtered_total",
                "New flows from outside that a pinhole's remote filter refused.",
                &[],
            ),
            Counter::EifFiltered,
        ),
    ]
}

fn pools(total: &Counters, facts: &Facts) -> Vec<Family> {
    let list: Vec<_> = facts.shape.pools.iter().enumerate().collect();
    let classes = [ProtocolClass::Tcp, ProtocolClass::Udp, ProtocolClass::Icmp];
    let cells: Vec<_> =
        list.iter().flat_map(|&(index, pool)| classes.map(|class| (index, pool, class))).collect();
    vec![
        Family::gauge("turnpike_pool_addresses", "Addresses of the pool.", &["pool"])
            .each(&list, |(_, pool)| (vec![pool.name.clone()], pool.addresses as f64)),
        Family::gauge("turnpike_pool_ports", "External ports the pool has.", &["pool", "proto"])
            .each(&cells, |(_, pool, class)| {
                (vec![pool.name.clone(), class.name().into()], pool.ports as f64)
            }),
        Family::gauge("turnpike_pool_ports_in_use", "External ports in use.", &["pool", "proto"]).each(
            &cells,
            |(index, pool, class)| {
                (vec![pool.name.clone(), class.name().into()], total.pool_ports(*index, *class) as f64)
            },
        ),
        Family::counter(
            "turnpike_drops_by_pool_total",
            "Packets dropped because the pool had no port for them.",
            &["pool", "reason"],
        )
        .each(&list, |(index, pool)| {
            let labels = vec![pool.name.clone(), DropReason::PortExhausted.name().into()];
            (labels, total.pool_exhaustions(*index) as f64)
        }),
    ]
}

fn icmp(total: &Counters) -> Vec<Family> {
    let by_kind = |family: Family, value: fn((u64, u64)) -> u64| {
        family.each(IcmpKind::ALL, |kind| (vec![kind.name().into()], value(total.icmp_errors(**kind)) as f64))
    };
    vec![
        by_kind(
            Family::counter("turnpike_icmp_generated_total", "ICMP errors the box made.", &["type"]),
            |(sent, _)| sent,
        ),
        by_kind(
            Family::counter(
                "turnpike_icmp_suppressed_total",
                "ICMP errors the rate limit held back.",
                &["type"],
            ),
            |(_, held)| held,
        ),
        Family::counter(
            "turnpike_icmp_errors_translated_total",
            "ICMP errors of others that were translated.",
            &["direction"],
        )
        .row(&["in2out"], total.get(Counter::IcmpTranslatedIn2Out) as f64)
        .row(&["out2in"], total.get(Counter::IcmpTranslatedOut2In) as f64),
    ]
}

fn firewall(total: &Counters, facts: &Facts) -> Vec<Family> {
    let zones: Vec<_> = facts.shape.zones.iter().take(MAX_ZONES).zip((0u8..).map(ZoneId)).collect();
    let mut verdicts = Family::counter(
        "turnpike_firewall_verdicts_total",
        "What the firewall said to first packets of flows.",
        &["action", "zone_from", "zone_to"],
    );
    for &action in FirewallAction::ALL {
        for (from, from_id) in &zones {
            for (to, to_id) in &zones {
                let count = total.verdicts(*from_id, *to_id, action);
                verdicts = verdicts.row(&[action.name(), from, to], count as f64);
            }
        }
    }
    vec![verdicts]
}

fn dataplane(reading: &Reading, total: &Counters) -> Vec<Family> {
    let main = &reading.main;
    let waiting = [total.get(Counter::FragmentsWaitingV4), total.get(Counter::FragmentsWaitingV6)];
    let single = |family: Family, value: u64| family.row(&[], value as f64);
    vec![
        Family::gauge("turnpike_mempool_buffers", "Packet buffers.", &["pool"])
            .row(&["mbuf"], main.buffers as f64),
        Family::gauge("turnpike_mempool_buffers_available", "Free packet buffers.", &["pool"])
            .row(&["mbuf"], main.buffers_available as f64),
        single(
            Family::gauge("turnpike_neighbours", "Neighbours known, summed over workers.", &[]),
            total.get(Counter::Neighbours),
        ),
        single(
            Family::gauge("turnpike_neighbour_held_packets", "Packets that wait for a neighbour.", &[]),
            total.get(Counter::Held).saturating_sub(waiting.iter().sum()),
        ),
        Family::counter(
            "turnpike_fragments_total",
            "Fragments, by what became of them; those held are forwarded or dropped later.",
            &["result"],
        )
        .each(
            [
                ("forwarded", total.get(Counter::FragmentsForwarded)),
                ("held", total.get(Counter::FragmentsHeld)),
                ("timeout", total.drops(DropReason::FragTimeout)),
                ("overlap", total.drops(DropReason::FragOverlap)),
                ("duplicate", total.drops(DropReason::FragDuplicate)),
                ("limit", total.drops(DropReason::FragLimit)),
                ("tiny", total.drops(DropReason::FragTiny) + total.drops(DropReason::FragOffsetOne)),
            ],
            |(result, count)| (vec![(*result).into()], *count as f64),
        ),
        Family::gauge(
            "turnpike_fragments_pending",
            "Fragments that wait for the first of their datagram.",
            &["family"],
        )
        .each(["ipv4", "ipv6"].iter().zip(waiting), |(family, count)| {
            (vec![(**family).into()], *count as f64)
        }),
        single(
            Family::gauge(
                "turnpike_fragments_limit",
                "Most fragments that may wait, of both families together.",
                &[],
            ),
            total.get(Counter::FragmentsLimit),
        ),
        single(
            Family::counter(
                "turnpike_neighbour_released_packets_total",
                "Packets that waited for a neighbour and then left.",
                &[],
            ),
            total.get(Counter::NeighbourReleased),
        ),
        Family::counter("turnpike_tap_packets_total", "Packets exchanged with the kernel.", &["direction"])
            .row(&["to_kernel"], main.tap_sent as f64)
            .row(&["from_kernel"], main.tap_received as f64),
        Family::counter(
            "turnpike_tap_dropped_total",
            "Packets for or from the kernel that found no room.",
            &["direction"],
        )
        .row(&["to_kernel"], main.tap_dropped as f64)
        .row(&["from_kernel"], main.inject_dropped as f64),
        Family::counter(
            "turnpike_dataplane_attachments_total",
            "Control planes that attached, by how it ended: those put out broke a rule.",
            &["event"],
        )
        .row(&["attached"], main.attaches as f64)
        .row(&["left"], main.departures as f64)
        .row(&["put_out"], main.violations as f64),
        Family::counter("turnpike_dataplane_tables_total", "Tables offered to the dataplane.", &["result"])
            .row(&["accepted"], main.tables as f64)
            .row(&["refused"], main.tables_refused as f64),
        single(
            Family::gauge(
                "turnpike_dataplane_start_time_seconds",
                "Start of the dataplane since the epoch, 0 if none was attached.",
                &[],
            ),
            reading.identity.as_ref().map_or(0, |identity| identity.started_ms / 1000),
        ),
        Family::gauge(
            "turnpike_dataplane_last_heartbeat_timestamp_seconds",
            "When the dataplane's main thread last published, since the epoch.",
            &[],
        )
        .row(&[], seconds(main.heartbeat_ms)),
    ]
}

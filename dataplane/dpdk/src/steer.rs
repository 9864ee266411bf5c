//! Steering: the device is told to bring each packet to the queue of the worker that owns it, by the means it
//! has. What it cannot be told crosses to its owner in software, so nothing here can fail the port.

use crate::port::{PortConfig, Shared, rss_types};
use dpdk_sys::{rte_eth_dev_info, rte_flow, turnpike_match};
use std::ptr::NonNull;
use turnpike_abi::rss::{self, Class, Facing, KEY_LENGTH, Rss};
use turnpike_abi::stats::Steering;
use turnpike_abi::steering::PORT_BLOCK;

/// Longest RSS key of any device.
const LONGEST_KEY: usize = u8::MAX as usize;
/// Entries of the largest redirection table, and of the one a flow rule spreads over.
const FLOW_ENTRIES: u16 = 128;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a device's RSS is set to, as the device tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssState {
    /// The Toeplitz key.
    pub key: Vec<u8>,
    /// The queue for each value of the hash's low bits.
    pub table: Vec<u16>,
}

/// Key and table for a port, if its device takes what they need.
pub(crate) fn plan(config: &PortConfig, info: &rte_eth_dev_info) -> Option<Rss> {
    let facing = config.steering?;
    let workers = u8::try_from(config.rx_queues).ok()?;
    let types = dpdk_sys::TURNPIKE_RSS_IPV4_L4;
    let hashes = info.flow_type_rss_offloads & types == types;
    (hashes && key_length(info) >= KEY_LENGTH).then(|| Rss::new(facing, workers, info.reta_size)).flatten()
}

/// Bytes of the device's key. 40 is the length of all older devices; drivers that do not tell mean it.
pub(crate) fn key_length(info: &rte_eth_dev_info) -> usize {
    if info.hash_key_size == 0 { KEY_LENGTH } else { usize::from(info.hash_key_size) }
}

/// The key, as long as the device has it.
pub(crate) fn padded(rss: &Rss) -> [u8; LONGEST_KEY] {
    let mut key = [0; LONGEST_KEY];
    key.iter_mut().zip(rss.key()).for_each(|(to, from)| *to = from);
    key
}

/// The rules that together match every packet to be steered once: IPv4 by address or by the ports of both
/// protocols, IPv6 by address.
fn matches(facing: Facing, version: u8, class: Class) -> Vec<turnpike_match> {
    let (value, mask) = (u16::from(class.value), u16::from(class.mask));
    let port = |protocol| turnpike_match {
        version,
        protocol,
        destination: 1,
        byte: 0,
        value: value * PORT_BLOCK,
        mask: mask * PORT_BLOCK,
    };
    match (version, facing) {
        (4, Facing::Outside) => vec![port(TCP), port(UDP)],
        _ => vec![turnpike_match {
            version,
            protocol: 0,
            destination: u8::from(facing == Facing::Outside),
            // The address's last byte, or the /64's.
            byte: if version == 4 { 3 } else { 7 },
            value,
            mask,
        }],
    }
}

impl Shared {
    /// Steers both families of a started port and notes how.
    pub(crate) fn steer(&mut self, config: &PortConfig, keyed: Option<Rss>) {
        if config.rx_queues == 1 {
            self.negotiated.steering_v4 = Steering::ONE_QUEUE;
            self.negotiated.steering_v6 = Steering::ONE_QUEUE;
            return;
        }
        let (Some(facing), Ok(workers)) = (config.steering, u8::try_from(config.rx_queues)) else { return };
        if keyed.is_some_and(|rss| self.fill_table(&rss)) {
            self.negotiated.steering_v4 = Steering::RSS_KEY;
        } else if self.match_all(facing, 4, workers) {
            self.negotiated.steering_v4 = Steering::FLOW_RULES;
        }
        if self.spread_v6(facing, workers) {
            self.negotiated.steering_v6 = Steering::FLOW_RSS;
        } else if self.match_all(facing, 6, workers) {
            self.negotiated.steering_v6 = Steering::FLOW_RULES;
        }
    }

    /// Fills the redirection table. Whether the device now has key and table as they should be, as far as it tells.
    fn fill_table(&self, rss: &Rss) -> bool {
        let group = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as usize;
        let size = rss.entries();
        let wanted: Vec<u16> = (0..size).map(|entry| u16::from(rss.worker_at(entry).0)).collect();
        let mut table: Vec<_> = wanted
            .chunks(group)
            .map(|queues| {
                let mut cell = dpdk_sys::rte_eth_rss_reta_entry64::default();
                for (place, &queue) in queues.iter().enumerate() {
                    cell.mask |= 1 << place;
                    cell.reta[place] = queue;
                }
                cell
            })
            .collect();
        // SAFETY: the port is ours; the table covers `size` entries and is copied.
        let code = unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(self.id(), table.as_mut_ptr(), size) };
        if code != 0 {
            return false;
        }
        // Drivers exist that take a key with the configuration and keep their own until told again.
        let keeps_own = || self.key().is_some_and(|key| !key.starts_with(&rss.key()));
        if keeps_own() {
            self.set_key(rss);
        }
        !keeps_own() && self.table(size).is_none_or(|table| table == wanted)
    }

    fn set_key(&self, rss: &Rss) {
        let Ok(info) = self.information() else { return };
        let mut key = padded(rss);
        let mut conf = dpdk_sys::rte_eth_rss_conf {
            rss_key: key.as_mut_ptr(),
            rss_key_len: key_length(&info) as u8,
            rss_hf: info.flow_type_rss_offloads & rss_types(),
        };
        // SAFETY: the port is ours; the key is as long as said, and copied.
        let _ = unsafe { dpdk_sys::rte_eth_dev_rss_hash_update(self.id(), &raw mut conf) };
    }

    /// What the device says its RSS is set to; `None` if it does not say.
    pub(crate) fn rss_state(&self) -> Option<RssState> {
        let info = self.information().ok()?;
        Some(RssState { key: self.key()?, table: self.table(info.reta_size)? })
    }

    fn key(&self) -> Option<Vec<u8>> {
        let length = self.information().map_or(0, |info| key_length(&info));
        let mut key = vec![0; LONGEST_KEY];
        let mut conf = dpdk_sys::rte_eth_rss_conf {
            rss_key: key.as_mut_ptr(),
            rss_key_len: u8::MAX,
            ..Default::default()
        };
        // SAFETY: the port is ours; the key has room for the longest there is.
        let code = unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.id(), &raw mut conf) };
        key.truncate(length);
        (code == 0 && length > 0).then_some(key)
    }

    fn table(&self, size: u16) -> Option<Vec<u16>> {
        let group = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as usize;
        let mut cells =
            vec![dpdk_sys::rte_eth_rss_reta_entry64::default(); usize::from(size).div_ceil(group)];
        cells.iter_mut().for_each(|cell| cell.mask = u64::MAX);
        // SAFETY: the port is ours; the cells cover `size` entries.
        let code = unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(self.id(), cells.as_mut_ptr(), size) };
        let entries = cells.iter().flat_map(|cell| cell.reta).take(usize::from(size)).collect();
        (code == 0 && size > 0).then_some(entries)
    }

    /// One rule: IPv6 by a hash of the inside address alone.
    fn spread_v6(&self, facing: Facing, workers: u8) -> bool {
        let only = match facing {
            Facing::Inside => dpdk_sys::TURNPIKE_RSS_SOURCE_ONLY,
            Facing::Outside => dpdk_sys::TURNPIKE_RSS_DESTINATION_ONLY,
        };
        let Some(order) = Rss::new(Facing::Inside, workers, FLOW_ENTRIES) else { return false };
        let queues: Vec<u16> = (0..FLOW_ENTRIES).map(|entry| u16::from(order.worker_at(entry).0)).collect();
        let key = rss::flow_key_v6(facing);
        // SAFETY: the port is ours and started; key and queues are as long as said, and copied.
        let flow = unsafe {
            dpdk_sys::turnpike_flow_spread_v6(
                self.id(),
                dpdk_sys::TURNPIKE_RSS_IPV6 | only,
                key.as_ptr(),
                KEY_LENGTH as u32,
                queues.as_ptr(),
                u32::from(FLOW_ENTRIES),
            )
        };
        !flow.is_null()
    }

    /// A rule for each class of owners; all of them or none.
    fn match_all(&self, facing: Facing, version: u8, workers: u8) -> bool {
        let mut made: Vec<NonNull<rte_flow>> = Vec::new();
        for class in rss::classes(workers) {
            for rule in matches(facing, version, class) {
                let queue = u16::from(class.worker.0);
                // SAFETY: the port is ours and started; the rule is copied.
                let flow = unsafe { dpdk_sys::turnpike_flow_to_queue(self.id(), &raw const rule, queue) };
                match NonNull::new(flow) {
                    Some(flow) => made.push(flow),
                    None => {
                        for flow in made {
                            // SAFETY: made above on this port, and not used again.
                            let _ = unsafe { dpdk_sys::turnpike_flow_destroy(self.id(), flow.as_ptr()) };
                        }
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// DPDK's own software Toeplitz (`rte_softrss`) of `tuple`, in network byte order and whole 32-bit words;
/// what the key lacks counts as zeros.
#[must_use]
pub fn softrss(key: &[u8], tuple: &[u8]) -> u32 {
    let mut words: Vec<u32> = tuple
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u32::from_be_bytes(word)
        })
        .collect();
    // The function reads a word beyond the tuple's length, as words.
    let mut long = vec![0u32; words.len() + 1];
    for (word, chunk) in long.iter_mut().zip(key.chunks(4)) {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        *word = u32::from_ne_bytes(bytes);
    }
    // SAFETY: the tuple has as many words as said, the key one more; both are aligned.
    unsafe { dpdk_sys::turnpike_softrss(words.as_mut_ptr(), words.len() as u32, long.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_abi::{Address, steering};

    /// Rules as a device evaluates them.
    fn hits(rule: &turnpike_match, v4: bool, addresses: [&[u8]; 2], protocol: u8, port: u16) -> bool {
        if v4 != (rule.version == 4) {
            return false;
        }
        let field = match rule.protocol {
            0 => u16::from(addresses[usize::from(rule.destination)][usize::from(rule.byte)]),
            wanted if wanted == protocol => port,
            _ => return false,
        };
        field & rule.mask == rule.value
    }

    #[test]
    fn every_packet_matches_one_rule_and_it_names_the_owner() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for workers in 1..=64u8 {
            for facing in [Facing::Inside, Facing::Outside] {
                let rules: Vec<_> = rss::classes(workers)
                    .flat_map(|class| {
                        [4, 6]
                            .map(|version| matches(facing, version, class))
                            .into_iter()
                            .flatten()
                            .map(move |rule| (rule, class.worker))
                    })
                    .collect();
                for round in 0..200 {
                    let v4 = round % 2 == 0;
                    let bytes: Vec<u8> = (0..4).flat_map(|_| random().to_be_bytes()).collect();
                    let (source, destination) =
                        if v4 { (&bytes[..4], &bytes[4..8]) } else { bytes.split_at(16) };
                    let port = random() as u16;
                    let protocol = if random() & 1 == 0 { TCP } else { UDP };
                    let found: Vec<_> = rules
                        .iter()
                        .filter(|(rule, _)| hits(rule, v4, [source, destination], protocol, port))
                        .map(|(_, worker)| *worker)
                        .collect();
                    let address = |bytes: &[u8]| match bytes.try_into() {
                        Ok(octets) => Address::v4(octets),
                        Err(_) => Address(bytes.try_into().expect("16 bytes")),
                    };
                    let owner = match (v4, facing) {
                        (_, Facing::Inside) => steering::owner_of_inside(address(source), workers),
                        (true, Facing::Outside) => steering::owner_of_port(port, workers),
                        (false, Facing::Outside) => steering::owner_of_inside(address(destination), workers),
                    };
                    assert_eq!(found, [owner], "{workers} workers, {facing:?}, v4: {v4}");
                }
            }
        }
    }
}

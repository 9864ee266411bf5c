//! Bindings by their inside endpoint: in an index of their own if they have a record, else by their flow.

use super::{Binding, Bindings, sole};
use crate::flows::Flows;
use turnpike_abi::event::BindingRow;
use turnpike_abi::{Address, PoolId};

/// Where the binding of an inside endpoint in a pool is filed if it has a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    hash: u64,
    pool: PoolId,
}

/// An inside endpoint without binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unbound {
    pub(super) inside: (Address, u16),
    pub(super) pool: PoolId,
    pub(super) protocol: u8,
}

/// Where a binding with a record is filed, and where that is noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    pub(super) hash: u64,
    pub(super) by_source: Option<u64>,
}

impl Entries {
    pub(super) fn of(bindings: &Bindings, flows: &Flows, binding: &Binding) -> Self {
        let of_pool = binding.pool != BindingRow::NO_POOL;
        Self { hash: bindings.hash_of(binding), by_source: of_pool.then(|| source_of(flows, binding)) }
    }
}

impl Bindings {
    fn hash_inside(&self, protocol: u8, address: Address, port: u16, pool: PoolId) -> u64 {
        let (port, pool) = (u32::from(port), u32::from(pool.0));
        match address.to_v4() {
            Some(v4) => {
                self.hash.v4(u64::from(u32::from_be_bytes(v4)) << 32 | u64::from(pool), port, protocol)
            }
            None => self.hash.v6(address.0, [0; 16], port << 16 | pool, protocol),
        }
    }

    /// Under which a binding is filed.
    fn hash_of(&self, binding: &Binding) -> u64 {
        let Binding { protocol, inside_port, pool, .. } = *binding;
        self.hash_inside(protocol, self.inside_of(binding), inside_port, pool)
    }

    /// First of five steps, over a burst, that bring the lines near which new bindings will need. The pool is a
    /// guess: the one of the last new binding.
    pub(crate) fn prefetch(&self, inside: [u8; 4]) {
        self.ports.prefetch_index(inside, self.last_pool);
    }

    /// Asks for the line of a binding that may have a record.
    pub(crate) fn prefetch_place(&self, protocol: u8, inside: [u8; 4], port: u16) -> Place {
        let pool = self.last_pool;
        let hash = self.hash_inside(protocol, Address::v4(inside), port, pool);
        self.by_inside.prefetch(hash);
        Place { hash, pool }
    }

    /// The binding of an inside endpoint, if that has a record ([`Bindings::any_of_inside`]).
    pub(crate) fn of_inside(&self, protocol: u8, address: Address, port: u16, pool: PoolId) -> Option<u32> {
        self.under(self.hash_inside(protocol, address, port, pool), (protocol, address, port, pool))
    }

    /// As [`Bindings::of_inside`], for a caller who will make one if there is none.
    ///
    /// # Errors
    /// What that needs, if there is none.
    pub(crate) fn search(&self, protocol: u8, inside: (Address, u16), pool: PoolId) -> Result<u32, Unbound> {
        let found = self.of_inside(protocol, inside.0, inside.1, pool);
        found.ok_or(Unbound { inside, pool, protocol })
    }

    /// The binding of an inside endpoint, with a record or without.
    pub(crate) fn any_of_inside(
        &self,
        flows: &Flows,
        protocol: u8,
        inside: (Address, u16),
        pool: PoolId,
    ) -> Option<u32> {
        let Some(v4) = inside.0.to_v4() else { return self.of_inside(protocol, inside.0, inside.1, pool) };
        let by_source = flows.hash_of_source(protocol, v4, inside.1);
        self.search_at(flows, (by_source, None), protocol, inside, pool).ok()
    }

    /// As [`Bindings::any_of_inside`], for a caller who will make one if there is none, with the hash that tells flows of the
    /// endpoint and the place that [`Bindings::prefetch_place`] guessed.
    ///
    /// # Errors
    /// What that needs, if there is none.
    #[inline(always)]
    pub(crate) fn search_at(
        &self,
        flows: &Flows,
        (by_source, place): (u64, Option<Place>),
        protocol: u8,
        inside: (Address, u16),
        pool: PoolId,
    ) -> Result<u32, Unbound> {
        let v4 = inside.0.to_v4().unwrap_or_default();
        // First the one with a record: its flows may lie by its source, and would all be looked at in vain.
        if flows.may_have_record(by_source) {
            let hash = match place.filter(|place| place.pool == pool) {
                Some(place) => place.hash,
                None => self.hash_inside(protocol, inside.0, inside.1, pool),
            };
            if let Some(number) = self.under(hash, (protocol, inside.0, inside.1, pool)) {
                return Ok(number);
            }
        } else {
            debug_assert!(self.search(protocol, inside, pool).is_err(), "a record that was not noted");
        }
        let sole =
            flows.of_source(by_source, |record| self.is_sole_of(record, (protocol, v4, inside.1, pool)));
        sole.map(sole::binding_of).ok_or(Unbound { inside, pool, protocol })
    }

    /// The binding with a record of an inside endpoint.
    #[inline(always)]
    fn under(&self, hash: u64, (protocol, address, port, pool): (u8, Address, u16, PoolId)) -> Option<u32> {
        let v4 = address.to_v4().unwrap_or_default();
        self.by_inside.find(hash, |number| {
            self.record(number).is_some_and(|it| {
                (it.inside, it.inside_port, it.pool, it.protocol) == (v4, port, pool, protocol)
                    && (address.is_v4() || self.inside_of(it) == address)
            })
        })
    }

    /// Files a binding by its inside end. `false`, and nothing changed, if the index has no room.
    pub(super) fn file(&mut self, flows: &mut Flows, number: u32, binding: &Binding) -> bool {
        let filed = self.by_inside.insert(self.hash_of(binding), number);
        if filed && binding.pool != BindingRow::NO_POOL {
            flows.note_record(source_of(flows, binding));
        }
        filed
    }

    /// Undoes [`Bindings::file`].
    pub(super) fn take_off(&mut self, flows: &mut Flows, number: u32, entries: &Entries) {
        let removed = self.by_inside.remove(entries.hash, number);
        debug_assert!(removed, "binding {number} was filed elsewhere");
        if let Some(by_source) = entries.by_source {
            flows.forget_record(by_source);
        }
    }
}

/// The hash of packets from the inside end of a binding of a pool, by their source.
fn source_of(flows: &Flows, binding: &Binding) -> u64 {
    flows.hash_of_source(binding.protocol, binding.inside, binding.inside_port)
}

//! Things with numbers that are never mixed up with those of things that are gone.
//!
//! Owns: the things. Driven by: flows, sessions and ports. Bounds: what its owner allows; numbers are reused, generations
//! count up.

/// The number of a thing in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    /// No number is before it.
    pub(crate) const FIRST: Self = Self { index: 0, generation: 0 };
    /// No number is behind it.
    pub(crate) const LAST: Self = Self { index: u32::MAX, generation: u32::MAX };

    /// One number for both, for the driver's own tables.
    pub(crate) const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The inverse of [`Id::to_u64`].
    pub(crate) const fn from_u64(id: u64) -> Self {
        Self { index: id as u32, generation: (id >> 32) as u32 }
    }

    /// A small number, unique among the things that are there.
    pub(crate) const fn index(self) -> usize {
        self.index as usize
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    pub(crate) fn insert(&mut self, value: T) -> Id {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.1 = Some(value);
            return Id { index, generation: slot.0 };
        }
        let index = self.slots.len() as u32;
        self.slots.push((0, Some(value)));
        Id { index, generation: 0 }
    }

    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        self.slots.get(id.index()).filter(|slot| slot.0 == id.generation).and_then(|slot| slot.1.as_ref())
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.slots.get_mut(id.index()).filter(|slot| slot.0 == id.generation).and_then(|slot| slot.1.as_mut())
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        let slot = self.slots.get_mut(id.index()).filter(|slot| slot.0 == id.generation)?;
        let value = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, (generation, value))| {
            Some((Id { index: index as u32, generation: *generation }, value.as_mut()?))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (generation, value))| {
            Some((Id { index: index as u32, generation: *generation }, value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_something_gone_finds_nothing_even_when_its_place_is_taken() {
        let mut arena = Arena::default();
        let a = arena.insert('a');
        assert_eq!(arena.remove(a), Some('a'));
        let b = arena.insert('b');
        assert_eq!(b.index(), a.index());
        assert_eq!(arena.get(a), None);
        assert_eq!(arena.remove(a), None);
        assert_eq!(arena.get(Id::from_u64(b.to_u64())), Some(&'b'));
        assert_eq!(arena.len(), 1);
        assert_eq!(arena.iter().collect::<Vec<_>>(), [(b, &'b')]);
    }
}

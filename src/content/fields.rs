//! A walk over the top level of a protobuf message: what it holds and how much of it, before anything is allocated.
//!
//! A repeated field costs a stranger two bytes and us a hundred, so counts are bounded here, on the wire form; the small
//! messages inside are decoded by `prost`.

/// One field's value as it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    /// Four or eight bytes; no message of ours has such a field.
    Fixed,
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        if let Value::Varint(value) = self { Ok(value) } else { Err(Malformed("a field has another type")) }
    }

    pub(crate) fn flag(self) -> Result<bool, Malformed> {
        self.varint().map(|value| value != 0)
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Value::Bytes(value) = self { Ok(value) } else { Err(Malformed("a field has another type")) }
    }

    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

/// Not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The fields of one message, in their order; stops for good at the first fault.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed("it ends within a number"))?;
            self.rest = rest;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is longer than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("it ends within a field"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(Malformed("a field number is out of range"))?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed("a field has a wire type that is not in use")),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::content::proto;

    #[test]
    fn numbers_end_at_64_bits() {
        let max = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Fields::of(&max).collect::<Vec<_>>(), [Ok((1, Value::Varint(u64::MAX)))]);
        for bad in [&[0x08][..], &[0x08, 0x80], &[0x0a, 5, 1], &[0x00, 0], &[0x0b], &[0x0f], &[0x09, 1], &[0x80; 12]] {
            assert!(Fields::of(bad).any(|field| field.is_err()), "{bad:x?}");
        }
        let mut over = max;
        over[10] = 2;
        assert!(Fields::of(&over).any(|field| field.is_err()));
    }

    proptest! {
        #[test]
        fn what_prost_takes_as_an_annotation_is_walked_without_fault(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let walked: Result<Vec<_>, _> = Fields::of(&bytes).collect();
            if let (Ok(read), Ok(fields)) = (proto::Annotation::decode(&bytes[..]), walked) {
                let key = fields.iter().rev().find(|field| field.0 == 1).map(|field| field.1.text());
                prop_assert_eq!(key.unwrap_or(Ok("")), Ok(read.key.as_str()));
            }
        }
    }
}

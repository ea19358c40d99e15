//! The instructions of a pickle, as far as a table of tensors has them.

use std::collections::HashMap;
use std::sync::Arc;

use super::pickle::{Elements, Flaw, Outcome, Storage, View};

/// Values a pickle may hold; a table of 400 billion weights has about 30,000.
pub(super) const MAX_VALUES: usize = 1 << 20;
/// Tensors of more dimensions do not occur.
const MAX_RANK: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    RebuildFromType,
    TensorClass,
    Storage(Elements),
}

impl Global {
    fn named(module: &str, name: &str) -> Outcome<Global> {
        use Elements::{Bf16, F16, F32, Other};
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Global::TensorClass,
            ("torch", "FloatStorage") => Global::Storage(F32),
            ("torch", "HalfStorage") => Global::Storage(F16),
            ("torch", "BFloat16Storage") => Global::Storage(Bf16),
            ("torch", "DoubleStorage") => Global::Storage(Other("F64")),
            ("torch", "LongStorage") => Global::Storage(Other("I64")),
            ("torch", "IntStorage") => Global::Storage(Other("I32")),
            ("torch", "ShortStorage") => Global::Storage(Other("I16")),
            ("torch", "CharStorage") => Global::Storage(Other("I8")),
            ("torch", "ByteStorage") => Global::Storage(Other("U8")),
            ("torch", "BoolStorage") => Global::Storage(Other("BOOL")),
            _ => {
                let asked: String = format!("{module}.{name}").chars().take(100).collect();
                return Err(Flaw::Unfit(format!(
                    "its pickle asks to run `{}`, which a table of tensors does not need; nothing \
                     was run: get the model from a source you trust, or as safetensors",
                    asked.escape_debug()
                )));
            }
        })
    }
}

/// Place of a value in the arena.
pub(super) type Id = u32;

/// A value in the arena.
#[derive(Debug)]
pub(super) enum Value {
    /// None, true, false, a fraction: nothing that a tensor is described by.
    Plain,
    Int(i64),
    Text(String),
    Global(Global),
    /// A tuple or a list.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Arc<Storage>),
    Tensor(View),
}

/// A stack machine that makes values and calls nothing.
pub(super) struct Machine<'a> {
    input: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack where a tuple, list or dictionary began.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub fn new(pickle: &'a [u8]) -> Machine<'a> {
        Machine {
            input: pickle,
            values: vec![Value::Plain],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to the end; the value that is left.
    pub fn run(&mut self) -> Outcome<Id> {
        loop {
            let code = self.take::<1>()?[0];
            match code {
                0x80 => {
                    let [version] = self.take()?;
                    if version > 5 {
                        return Err(format!("pickle protocol {version} is not known").into());
                    }
                }
                0x95 => drop(self.take::<8>()?),
                b'.' => return self.pop(),
                b'N' | 0x88 | 0x89 => self.stack.push(0),
                b'G' => {
                    self.take::<8>()?;
                    self.stack.push(0);
                }
                b'K' => {
                    let [byte] = self.take()?;
                    self.push(Value::Int(byte.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()))?;
                }
                0x8a => {
                    let n = self.long()?;
                    self.push(Value::Int(n))?;
                }
                b'X' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.text(n as usize)?;
                }
                0x8c | b'U' => {
                    let [n] = self.take()?;
                    self.text(n.into())?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(Global::named(&module, &name)?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let global = match (self.value(module), self.value(name)) {
                        (Value::Text(module), Value::Text(name)) => Global::named(module, name)?,
                        _ => return Err("its pickle names a function by no name".into()),
                    };
                    self.push(Value::Global(global))?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' | b']' => self.push(Value::Sequence(vec![]))?,
                b'}' => self.push(Value::Dict(vec![]))?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Value::Sequence(items))?;
                }
                0x85..=0x87 => {
                    let n = usize::from(code - 0x84);
                    let at = self.stack.len().checked_sub(n).ok_or(EMPTY)?;
                    let items = self.stack.split_off(at);
                    self.push(Value::Sequence(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let [at] = self.take()?;
                    self.memorize(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(self.take()?);
                    self.memorize(at)?;
                }
                0x94 => self.memorize(self.memo.len() as u32)?,
                b'h' => {
                    let [at] = self.take()?;
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(self.take()?);
                    self.recall(at)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(Value::Storage(storage))?;
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let Value::Global(global) = *self.value(callable) else {
                        return Err("its pickle calls what is no function".into());
                    };
                    let made = self.call(global, arguments)?;
                    self.stack.push(made);
                }
                // Attributes of a table or a tensor (`_metadata`): no weights are in them.
                b'b' => drop(self.pop()?),
                other => return Err(format!("pickle instruction {other:#04x} is not known").into()),
            }
        }
    }

    /// What the call of a known function makes.
    fn call(&mut self, global: Global, arguments: Id) -> Outcome<Id> {
        let arguments = self.sequence(arguments)?;
        match (global, arguments) {
            (Global::OrderedDict, []) => {
                self.push(Value::Dict(vec![]))?;
                self.pop()
            }
            (Global::RebuildParameter, [tensor, ..]) => Ok(*tensor),
            (Global::RebuildFromType, [function, _, inner, ..]) => {
                // One level only: the function it wraps is never itself again.
                match *self.value(*function) {
                    Value::Global(inside @ (Global::RebuildTensor | Global::RebuildParameter)) => {
                        let inner = *inner;
                        self.call(inside, inner)
                    }
                    _ => Err("a tensor of its pickle is of an unknown class".into()),
                }
            }
            (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = self.value(*storage) else {
                    return Err("a tensor of its pickle has no storage".into());
                };
                let view = View {
                    storage: storage.clone(),
                    offset: self.size(*offset)?,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                if view.shape.len() != view.strides.len() {
                    return Err("a tensor of its pickle has other strides than dimensions".into());
                }
                self.push(Value::Tensor(view))?;
                self.pop()
            }
            _ => Err("its pickle calls a known function in an unknown way".into()),
        }
    }

    /// `('storage', class, key, device, elements)`.
    fn storage(&self, id: Id) -> Outcome<Arc<Storage>> {
        let bad = || Flaw::from("a storage of its pickle is described in an unknown way");
        let [kind, class, key, _, len] = self.sequence(id)? else {
            return Err(bad());
        };
        match (self.value(*kind), self.value(*class), self.value(*key)) {
            (Value::Text(kind), Value::Global(Global::Storage(elements)), Value::Text(key))
                if kind == "storage" && key.len() < 256 =>
            {
                Ok(Arc::new(Storage {
                    elements: *elements,
                    key: key.clone(),
                    len: self.size(*len)?,
                }))
            }
            _ => Err(bad()),
        }
    }

    fn size(&self, id: Id) -> Outcome<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n)
                .map_err(|_| format!("a tensor of its pickle has a size of {n}").into()),
            _ => Err("a tensor of its pickle has a size that is no number".into()),
        }
    }

    fn sizes(&self, id: Id) -> Outcome<Vec<u64>> {
        let ids = self.sequence(id)?;
        if ids.len() > MAX_RANK {
            return Err(format!("a tensor of its pickle has {} dimensions", ids.len()).into());
        }
        ids.iter().map(|id| self.size(*id)).collect()
    }

    fn sequence(&self, id: Id) -> Outcome<&[Id]> {
        match self.value(id) {
            Value::Sequence(items) => Ok(items),
            _ => Err("its pickle has something else where a tuple should be".into()),
        }
    }

    pub fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        if self.values.len() >= MAX_VALUES {
            return Err("its pickle holds too many values".into());
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Outcome<Id> {
        Ok(self.stack.pop().ok_or(EMPTY)?)
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Id>> {
        let at = self.marks.pop().filter(|at| *at <= self.stack.len());
        Ok(self.stack.split_off(at.ok_or(EMPTY)?))
    }

    fn append(&mut self, items: &[Id]) -> Outcome<()> {
        let list = *self.stack.last().ok_or(EMPTY)?;
        match &mut self.values[list as usize] {
            Value::Sequence(list) => list.extend_from_slice(items),
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Outcome<()> {
        let dict = *self.stack.last().ok_or(EMPTY)?;
        match &mut self.values[dict as usize] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err("its pickle fills what is no dictionary".into()),
        }
        Ok(())
    }

    fn memorize(&mut self, at: u32) -> Outcome<()> {
        let id = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Outcome<()> {
        let id = self.memo.get(&at);
        self.stack
            .push(*id.ok_or("its pickle recalls what it never stored")?);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let (head, rest) = self.input.split_first_chunk().ok_or(CUT)?;
        self.input = rest;
        Ok(*head)
    }

    fn text(&mut self, n: usize) -> Outcome<()> {
        let (head, rest) = self.input.split_at_checked(n).ok_or(CUT)?;
        self.input = rest;
        let text = std::str::from_utf8(head).map_err(|_| "a text of its pickle is not UTF-8")?;
        self.push(Value::Text(text.to_string()))
    }

    fn line(&mut self) -> Outcome<String> {
        let window = &self.input[..self.input.len().min(256)];
        let end = window.iter().position(|b| *b == b'\n').ok_or(CUT)?;
        let line = String::from_utf8_lossy(&window[..end]).into_owned();
        self.input = &self.input[end + 1..];
        Ok(line)
    }

    /// A little-endian integer of up to eight bytes.
    fn long(&mut self) -> Outcome<i64> {
        let [n] = self.take()?;
        let (head, rest) = self.input.split_at_checked(n.into()).ok_or(CUT)?;
        self.input = rest;
        let negative = head.last().is_some_and(|b| b & 0x80 != 0);
        let mut bytes = if negative { [0xff; 8] } else { [0; 8] };
        bytes
            .get_mut(..head.len())
            .ok_or("a number of its pickle is too large")?
            .copy_from_slice(head);
        Ok(i64::from_le_bytes(bytes))
    }
}

const EMPTY: &str = "its pickle takes more than it has made";
const CUT: &str = "its pickle ends too early";

//! The forward pass over ragged batches on a card: rows of any sequences at any positions
//! packed one below the other, as on the CPU.

use std::ops::Deref;

use cudarc::driver::{CudaFunction, CudaSlice, DevicePtr, LaunchArgs, LaunchConfig, PushKernelArg};

use crate::engine::sampling::{self, Draw};
use crate::engine::{Decoder, Drawn};
use crate::error::{Error, Result};
use crate::model::PartTimes;
use crate::model::capture::Capture;
use crate::model::llama::{Chunk, check_chunks};

use super::device::{Device, Output, failed};
use super::kernels::FEW;
use super::llama::CudaLlama;
use super::pages::{PAGE, PageTables};

/// Tokens of a pass: enough for the products to be bound by arithmetic.
const PASS_TOKENS: usize = 4096;
/// Memory that is left to cuBLAS and the driver.
const RESERVE: usize = 1 << 30;

/// Buffers of the forward pass, and the pool of pages.
pub(super) struct Room {
    slots: usize,
    rows: usize,
    pages: usize,
    table_entries: usize,
    hidden: CudaSlice<f32>,
    normed: CudaSlice<u16>,
    qkv: CudaSlice<u16>,
    attended: CudaSlice<u16>,
    gate_up: CudaSlice<u16>,
    inner: CudaSlice<u16>,
    partial: CudaSlice<f32>,
    /// Tokens, slots and positions of the rows, and which rows' logits are wanted.
    rows_in: CudaSlice<i32>,
    tables: CudaSlice<i32>,
    logits: CudaSlice<f32>,
    drawn: CudaSlice<u32>,
    keys: CudaSlice<u16>,
    values: CudaSlice<u16>,
}

impl Room {
    /// Bytes of keys and values.
    pub fn cache_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<u16>()
    }

    /// Room for `slots` sequences over at most `pages` pages, taken from `spare` if it suffices.
    fn take(model: &CudaLlama, slots: usize, pages: usize, table_entries: usize) -> Result<Room> {
        let page_bytes = page_len(model) * 2 * size_of::<u16>();
        let mut spare = model
            .spare
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let spare_pages = spare.as_ref().map_or(0, |room| room.pages);
        let (free, _) = model.device.memory()?;
        let possible = spare_pages + free.saturating_sub(RESERVE) / page_bytes;
        if let Some(room) = spare.take_if(|room| {
            room.slots >= slots
                && room.table_entries >= table_entries
                && room.pages >= pages.min(possible)
        }) {
            return Ok(room);
        }
        drop(spare.take());
        model.device.synchronize()?;
        Room::new(model, slots, pages, table_entries, page_bytes)
    }

    fn new(
        model: &CudaLlama,
        slots: usize,
        pages: usize,
        table_entries: usize,
        page_bytes: usize,
    ) -> Result<Room> {
        let (device, config) = (&model.device, &model.config);
        let rows = PASS_TOKENS.max(slots);
        let queries = config.num_attention_heads * config.head_dim;
        let what = "buffers of the pass";
        let mut room = Room {
            slots,
            rows,
            pages: 0,
            table_entries,
            hidden: device.room(rows * config.hidden_size, what)?,
            normed: device.room(rows * config.hidden_size, what)?,
            qkv: device.room(rows * width(model), what)?,
            attended: device.room(rows * queries, what)?,
            gate_up: device.room(rows * 2 * config.intermediate_size, what)?,
            inner: device.room(rows * config.intermediate_size, what)?,
            partial: device.room(
                2 * model.kernels.share * blocks_wanted(device)? * (config.head_dim + 2),
                what,
            )?,
            rows_in: device.room(4 * rows, what)?,
            tables: device.room(table_entries, what)?,
            logits: device.room(slots * config.vocab_size, what)?,
            drawn: device.room(slots, what)?,
            keys: device.room(0, what)?,
            values: device.room(0, what)?,
        };
        let (free, total) = device.memory()?;
        room.pages = pages.min(free.saturating_sub(RESERVE) / page_bytes);
        if room.pages < slots {
            return Err(Error::Memory(format!(
                "{slots} rows need at least {:.1} GB for keys and values, {} has {:.1} of {:.1} \
                 GB free: use fewer rows at once (--slots, or `batch_size` and `vbs` of the arm)",
                (slots * page_bytes) as f64 / 1e9,
                device.name(),
                free as f64 / 1e9,
                total as f64 / 1e9
            )));
        }
        room.keys = device.room(room.pages * page_len(model), "keys")?;
        room.values = device.room(room.pages * page_len(model), "values")?;
        Ok(room)
    }
}

/// Keys of a page.
fn page_len(model: &CudaLlama) -> usize {
    let config = &model.config;
    config.num_hidden_layers * config.num_key_value_heads * PAGE * config.head_dim
}

fn width(model: &CudaLlama) -> usize {
    let config = &model.config;
    (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
}

/// Blocks of attention that fill the card.
fn blocks_wanted(device: &Device) -> Result<usize> {
    Ok(4 * device.processors()?)
}

/// The decoder of a [`CudaLlama`].
/// `M` is a [`CudaLlama`], borrowed or shared.
pub(super) struct CudaDecoder<M: Deref<Target = CudaLlama>> {
    model: M,
    /// Some until it is given back.
    room: Option<Room>,
    tables: PageTables,
    blocks_wanted: usize,
}

/// The rows of a pass.
struct Rows {
    tokens: Vec<i32>,
    slots: Vec<i32>,
    positions: Vec<i32>,
    wanted: Vec<i32>,
    /// Where each chunk's rows end.
    ends: Vec<usize>,
}

impl<M: Deref<Target = CudaLlama>> CudaDecoder<M> {
    pub fn new(model: M, slots: usize, capacity: usize) -> Result<Self> {
        let table_len = capacity.div_ceil(PAGE);
        let room = Room::take(&model, slots, slots * table_len, slots * table_len)?;
        Ok(CudaDecoder {
            tables: PageTables::new(slots, capacity, room.pages),
            blocks_wanted: blocks_wanted(&model.device)?,
            model,
            room: Some(room),
        })
    }

    /// Enqueues the pass; the wanted rows' logits are in `room.logits` when it is done. States
    /// that are asked for are waited for.
    fn forward(&mut self, rows: &Rows, mut capture: Option<&mut Capture>) -> Result<()> {
        let Some(room) = self.room.as_mut() else {
            return Err(Error::Numeric(
                "the decoder has given its memory back".into(),
            ));
        };
        let (n, wanted) = (rows.tokens.len(), rows.wanted.len());
        let stream = self.model.device.stream();
        let copied = failed("copying a batch to the card");
        let all = [&rows.tokens, &rows.slots, &rows.positions, &rows.wanted].map(|v| &v[..]);
        let all = all.concat();
        let mut to = room.rows_in.slice_mut(..all.len());
        stream.memcpy_htod(&all, &mut to).map_err(&copied)?;
        if std::mem::take(&mut self.tables.changed) {
            let table = self.tables.table();
            let mut to = room.tables.slice_mut(..table.len());
            stream.memcpy_htod(table, &mut to).map_err(&copied)?;
        }
        let pass = Pass {
            model: &self.model,
            room,
            rows: n,
            span: 0,
            splits: 0,
        }
        .split(
            rows.positions.iter().max().map_or(1, |p| *p as usize + 1),
            self.blocks_wanted,
        );
        pass.embed()?;
        let layers = &self.model.weights.layers;
        let mut depth = layers.len();
        if let Some(capture) = capture.as_deref_mut() {
            capture.begin(rows.ends.len(), self.model.config.hidden_size);
            if capture.stops_early && wanted == 0 {
                depth = capture.of.deepest().min(depth);
            }
            pass.take(0, capture, &rows.ends)?;
        }
        for (index, layer) in layers[..depth].iter().enumerate() {
            pass.norm(&layer.input_norm, n, None)?;
            pass.product(&room.qkv, Fate::Store, &layer.qkv, &room.normed, n)?;
            pass.attention(index, self.tables.table_len())?;
            pass.product(&room.hidden, Fate::Add, &layer.o, &room.attended, n)?;
            pass.norm(&layer.post_attention_norm, n, None)?;
            pass.product(&room.inner, Fate::Gate, &layer.gate_up, &room.normed, n)?;
            pass.product(&room.hidden, Fate::Add, &layer.down, &room.inner, n)?;
            if let Some(capture) = capture.as_deref_mut() {
                pass.take(index + 1, capture, &rows.ends)?;
            }
        }
        if wanted > 0 {
            let weights = &self.model.weights;
            let head = weights.head.as_ref().unwrap_or(&weights.embedding);
            pass.norm(&weights.norm, wanted, Some(3 * n))?;
            pass.product(&room.logits, Fate::Logits, head, &room.normed, wanted)?;
        }
        Ok(())
    }

    fn draw(&mut self, draws: &[Draw]) -> Result<Vec<u32>> {
        let Some(room) = self.room.as_mut() else {
            return Ok(Vec::new());
        };
        let (stream, vocab) = (self.model.device.stream(), self.model.config.vocab_size);
        let vocab_arg = vocab as i32;
        let mut call = stream.launch_builder(&self.model.kernels.argmax);
        call.arg(&room.drawn).arg(&room.logits).arg(&vocab_arg);
        launch(call, (draws.len(), 1, 1), 1024)?;
        let copied = failed("copying tokens from the card");
        let mut tokens = vec![0u32; draws.len()];
        let from = room.drawn.slice(..draws.len());
        stream
            .memcpy_dtoh(&from, &mut tokens[..])
            .map_err(&copied)?;
        let drawn: Vec<usize> = (0..draws.len())
            .filter(|&i| draws[i].temperature > 0.0)
            .collect();
        if !drawn.is_empty() {
            let mut logits = vec![0f32; drawn.len() * vocab];
            for (to, &row) in logits.chunks_exact_mut(vocab).zip(&drawn) {
                let from = room.logits.slice(row * vocab..(row + 1) * vocab);
                stream.memcpy_dtoh(&from, to).map_err(&copied)?;
            }
            self.model.device.synchronize()?;
            let how: Vec<Draw> = drawn.iter().map(|&i| draws[i]).collect();
            let chosen = sampling::draw_all(&self.model.team, &mut logits, &how);
            for (row, token) in drawn.into_iter().zip(chosen) {
                tokens[row] = token;
            }
        }
        self.model.device.synchronize()?;
        Ok(tokens)
    }
}

impl<M: Deref<Target = CudaLlama> + Send> Decoder for CudaDecoder<M> {
    fn slots(&self) -> usize {
        self.tables.slots()
    }

    fn capacity(&self) -> usize {
        self.tables.capacity()
    }

    fn pass_tokens(&self) -> usize {
        PASS_TOKENS
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        self.tables.tokens(slot)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.tables.truncate(slot, len);
    }

    /// Copies whole pages.
    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        if from == to {
            self.tables.truncate(to, len);
            return Ok(());
        }
        let tokens = self.tables.tokens(from)[..len].to_vec();
        self.tables.truncate(to, 0);
        self.tables.extend(to, &tokens)?;
        let Some(room) = self.room.as_mut() else {
            return Ok(());
        };
        let page = page_len(&self.model);
        let pairs = self
            .tables
            .pages_of(from)
            .iter()
            .zip(self.tables.pages_of(to));
        for (&source, &target) in pairs {
            let (source, target) = (source as usize * page, target as usize * page);
            for pool in [&mut room.keys, &mut room.values] {
                // Two pages of one pool: the copy's ends must be split for the borrow.
                let (low, high) = (source.min(target), source.max(target));
                let (mut first, mut second) = pool.split_at_mut(high);
                let mut first = first.slice_mut(low..low + page);
                let mut second = second.slice_mut(..page);
                let stream = self.model.device.stream();
                match source < target {
                    true => stream.memcpy_dtod(&first, &mut second),
                    false => stream.memcpy_dtod(&second, &mut first),
                }
                .map_err(failed("copying a prompt"))?;
            }
        }
        Ok(())
    }

    fn peak_cache_bytes(&self) -> usize {
        self.tables.most_used() * page_len(&self.model) * 2 * size_of::<u16>()
    }

    fn step(
        &mut self,
        chunks: &[Chunk<'_>],
        draws: &[Draw],
        capture: Option<&mut Capture>,
    ) -> Result<Drawn> {
        let config = &self.model.config;
        let most = self.capacity().min(config.max_position_embeddings);
        check_chunks(chunks, self.slots(), most, config.vocab_size, |slot| {
            self.tables.tokens(slot).len()
        })?;
        let count: usize = chunks.iter().map(|c| c.tokens.len()).sum();
        let mut tokens = Vec::new();
        if count > self.room.as_ref().map_or(0, |room| room.rows) {
            return Err(Error::Usage(format!(
                "a pass of {count} tokens: {PASS_TOKENS} at most"
            )));
        }
        let mut rows = Rows {
            tokens: Vec::with_capacity(count),
            slots: Vec::with_capacity(count),
            positions: Vec::with_capacity(count),
            wanted: Vec::new(),
            ends: Vec::with_capacity(chunks.len()),
        };
        for chunk in chunks {
            let held = self.tables.tokens(chunk.slot).len();
            self.tables.extend(chunk.slot, chunk.tokens)?;
            for (i, token) in chunk.tokens.iter().enumerate() {
                rows.tokens.push(*token as i32);
                rows.slots.push(chunk.slot as i32);
                rows.positions.push((held + i) as i32);
            }
            if chunk.logits {
                rows.wanted.push(rows.tokens.len() as i32 - 1);
            }
            rows.ends.push(rows.tokens.len());
        }
        self.forward(&rows, capture)?;
        if !draws.is_empty() {
            tokens = self.draw(draws)?;
        }
        Ok(Drawn {
            tokens,
            sampling_s: 0.0,
            parts: PartTimes::default(),
        })
    }

    fn last_logits(&mut self, rows: usize) -> Result<Vec<f32>> {
        let vocab = self.model.config.vocab_size;
        let mut logits = vec![0f32; rows * vocab];
        if let Some(room) = &self.room {
            self.model
                .device
                .stream()
                .memcpy_dtoh(&room.logits.slice(..rows * vocab), &mut logits[..])
                .map_err(failed("copying logits from the card"))?;
        }
        self.model.device.synchronize()?;
        Ok(logits)
    }
}

impl<M: Deref<Target = CudaLlama>> Drop for CudaDecoder<M> {
    fn drop(&mut self) {
        *self
            .model
            .spare
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = self.room.take();
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Store,
    Add,
    Gate,
    Logits,
}

/// One pass's launches.
struct Pass<'p> {
    model: &'p CudaLlama,
    room: &'p Room,
    rows: usize,
    /// Positions that a block of attention reads, and how many blocks share a row.
    span: usize,
    splits: usize,
}

impl Pass<'_> {
    /// Splits long rows over blocks where there are too few rows to fill the card.
    fn split(mut self, longest: usize, blocks_wanted: usize) -> Self {
        let blocks = self.rows * self.model.config.num_attention_heads / self.model.kernels.share;
        let splits = blocks_wanted.div_ceil(blocks).min(longest.div_ceil(PAGE));
        self.span = longest.div_ceil(splits).next_multiple_of(PAGE);
        self.splits = longest.div_ceil(self.span);
        self
    }

    fn call<'a>(&'a self, kernel: &'a CudaFunction) -> LaunchArgs<'a> {
        self.model.device.stream().launch_builder(kernel)
    }

    /// Copies the residual states out, if any of this layer are wanted.
    fn take(&self, layer: usize, capture: &mut Capture, ends: &[usize]) -> Result<()> {
        if !capture.of.last.contains(&layer) && !capture.of.mean.contains(&layer) {
            return Ok(());
        }
        let hidden = self.model.config.hidden_size;
        let mut states = vec![0f32; self.rows * hidden];
        let from = self.room.hidden.slice(..states.len());
        let stream = self.model.device.stream();
        stream
            .memcpy_dtoh(&from, &mut states[..])
            .map_err(failed("copying states from the card"))?;
        self.model.device.synchronize()?;
        capture.take(layer, ends, hidden, &states);
        Ok(())
    }

    fn embed(&self) -> Result<()> {
        let mut call = self.call(&self.model.kernels.embed);
        call.arg(&self.room.hidden)
            .arg(&self.model.weights.embedding)
            .arg(&self.room.rows_in);
        launch(call, (self.rows, 1, 1), 256)
    }

    /// Norms rows of `hidden` into `normed`: the first ones, or those listed at `which` in
    /// `rows_in`.
    fn norm(&self, weight: &CudaSlice<f32>, rows: usize, which: Option<usize>) -> Result<()> {
        let eps = self.model.config.rms_norm_eps;
        let list = which.map(|at| self.room.rows_in.slice(at..));
        let null = 0u64;
        let mut call = self.call(&self.model.kernels.rms_norm);
        call.arg(&self.room.normed)
            .arg(&self.room.hidden)
            .arg(weight);
        match &list {
            Some(list) => call.arg(list),
            None => call.arg(&null),
        };
        call.arg(&eps);
        launch(call, (rows, 1, 1), 256)
    }

    /// Rotates, stores and attends.
    fn attention(&self, layer: usize, table_len: usize) -> Result<()> {
        let (room, kernels, config) = (self.room, &self.model.kernels, &self.model.config);
        let n = self.rows;
        let (slots, positions) = (
            room.rows_in.slice(n..2 * n),
            room.rows_in.slice(2 * n..3 * n),
        );
        let (table_len, layer) = (table_len as i32, layer as i32);
        let mut call = self.call(&kernels.rotate_store);
        call.arg(&room.qkv)
            .arg(&room.keys)
            .arg(&room.values)
            .arg(&self.model.cosines)
            .arg(&self.model.sines)
            .arg(&slots)
            .arg(&positions)
            .arg(&room.tables)
            .arg(&table_len)
            .arg(&layer);
        launch(call, (n, 1, 1), 256)?;
        let (span, splits) = (self.span as i32, self.splits as i32);
        // Softmax by powers of two.
        let scale = std::f32::consts::LOG2_E / (config.head_dim as f32).sqrt();
        let mut call = self.call(&kernels.attend);
        call.arg(&room.attended)
            .arg(&room.partial)
            .arg(&room.qkv)
            .arg(&room.keys)
            .arg(&room.values)
            .arg(&slots)
            .arg(&positions)
            .arg(&room.tables)
            .arg(&table_len)
            .arg(&layer)
            .arg(&span)
            .arg(&scale);
        let heads = config.num_attention_heads;
        launch(call, (heads / kernels.share, n, self.splits), 128)?;
        if self.splits == 1 {
            return Ok(());
        }
        let mut call = self.call(&kernels.merge);
        call.arg(&room.attended)
            .arg(&room.partial)
            .arg(&positions)
            .arg(&span)
            .arg(&splits);
        launch(call, (heads, n, 1), config.head_dim)
    }

    /// The product of `rows` rows of `x` with a matrix.
    fn product<Y>(
        &self,
        y: &CudaSlice<Y>,
        fate: Fate,
        weights: &CudaSlice<u16>,
        x: &CudaSlice<u16>,
        rows: usize,
    ) -> Result<()> {
        let config = &self.model.config;
        let k = match fate {
            Fate::Add if std::ptr::eq(x, &self.room.inner) => config.intermediate_size,
            Fate::Add => config.num_attention_heads * config.head_dim,
            Fate::Store | Fate::Gate | Fate::Logits => config.hidden_size,
        };
        let n = weights.len() / k;
        let kernels = &self.model.kernels;
        if rows <= FEW && n.is_multiple_of(2) {
            let by_rows = match fate {
                Fate::Store => &kernels.store,
                Fate::Add => &kernels.add,
                Fate::Gate => &kernels.gate,
                Fate::Logits => &kernels.logits,
            };
            let (n_arg, k_arg) = (n as i32, k as i32);
            let mut call = self.call(&by_rows[rows - 1]);
            call.arg(y).arg(weights).arg(x).arg(&n_arg).arg(&k_arg);
            // Eight warps a block, two rows of weights a warp.
            return launch(call, (n.div_ceil(16), 1, 1), 256);
        }
        let stream = self.model.device.stream();
        let (w, x) = (weights.device_ptr(stream).0, x.device_ptr(stream).0);
        let device = &self.model.device;
        let to = |kept, y| device.product(y, kept, w, x, (rows, n, k));
        match fate {
            Fate::Store => to(Output::Bf16, y.device_ptr(stream).0),
            Fate::Add => to(Output::AddF32, y.device_ptr(stream).0),
            Fate::Logits => to(Output::F32, y.device_ptr(stream).0),
            Fate::Gate => {
                to(Output::Bf16, self.room.gate_up.device_ptr(stream).0)?;
                let mut call = self.call(&kernels.silu_gate);
                call.arg(y).arg(&self.room.gate_up);
                let blocks = (config.intermediate_size / 8).div_ceil(256);
                launch(call, (blocks, rows, 1), 256)
            }
        }
    }
}

fn launch(
    mut call: LaunchArgs<'_>,
    (x, y, z): (usize, usize, usize),
    threads: usize,
) -> Result<()> {
    let shape = LaunchConfig {
        grid_dim: (x as u32, y as u32, z as u32),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: every caller passes the buffers and sizes that its kernel's comment asks for.
    unsafe { call.launch(shape) }
        .map(|_| ())
        .map_err(failed("launching a kernel"))
}

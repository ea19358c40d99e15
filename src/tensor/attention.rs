//! Causal grouped-query attention over packed sequences, forward and backward. Sequences of
//! similar lengths are padded to the longest and go together, as many as keep the scores small.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::ops::softmax;

/// Scores in memory at once, unless one sequence has more.
const SCORES: usize = 1 << 26;

/// Heads of a model.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Elements of one.
    pub dim: usize,
}

/// Which rows of a batch are which positions of which sequences.
pub struct Layout {
    groups: Vec<Group>,
    heads: Heads,
    /// Of the products; softmax is f32.
    dtype: DType,
}

/// Sequences that attend together.
struct Group {
    sequences: usize,
    longest: usize,
    /// Row of each padded position (any row where there is none).
    to_padded: Tensor,
    /// 1 where a position is real, else 0.
    real: Tensor,
    /// Padded position of each row.
    from_padded: Tensor,
    /// 0 where a key may be seen, else negative infinity.
    mask: Tensor,
}

impl Layout {
    /// For sequences of `lengths` rows that follow one another.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn new(lengths: &[usize], heads: Heads, dtype: DType, device: &Device) -> Result<Layout> {
        let mut groups = Vec::new();
        let (mut first, mut start) = (0, 0);
        while first < lengths.len() {
            let mut longest = lengths[first];
            let mut end = first + 1;
            while end < lengths.len() {
                let with = longest.max(lengths[end]);
                if (end + 1 - first) * heads.queries * with * with > SCORES {
                    break;
                }
                longest = with;
                end += 1;
            }
            let lengths = &lengths[first..end];
            let rows = start..start + lengths.iter().sum::<usize>();
            start = rows.end;
            groups.push(Group::new(lengths, longest, rows, device)?);
            first = end;
        }
        Ok(Layout {
            groups,
            heads,
            dtype,
        })
    }

    /// What each row attends to: `[rows, queries * dim]` from rotated queries `[rows, queries *
    /// dim]`, rotated keys and values `[rows, keys * dim]`.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let attended = self.groups.iter().map(|group| {
            let (_, _, v, p) = self.probabilities(group, q, k, v)?;
            let out = p.to_dtype(self.dtype)?.matmul(&v)?;
            self.unpadded(group, &out, self.heads.queries)
        });
        Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Gradients of queries, keys and values, given that of [`Layout::forward`]'s result.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn backward(
        &self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        d: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let mut found = [const { Vec::new() }; 3];
        for group in &self.groups {
            let (q, k, v, p) = self.probabilities(group, q, k, v)?;
            let d = group.padded(d)?.broadcast_mul(&group.real)?;
            let d = self.by_head(group, &d, self.heads.queries)?;
            let narrow = p.to_dtype(self.dtype)?;
            let d_v = narrow.t()?.contiguous()?.matmul(&d)?;
            let d_p = d.matmul(&v.t()?.contiguous()?)?.to_dtype(DType::F32)?;
            let along = (&d_p * &p)?.sum_keepdim(D::Minus1)?;
            let d_scores = ((d_p.broadcast_sub(&along)? * p)? * self.scale())?;
            let d_scores = d_scores.to_dtype(self.dtype)?;
            let d_q = d_scores.matmul(&k)?;
            let d_k = d_scores.t()?.contiguous()?.matmul(&q)?;
            found[0].push(self.unpadded(group, &d_q, self.heads.queries)?);
            found[1].push(self.unpadded(group, &d_k, self.heads.keys)?);
            found[2].push(self.unpadded(group, &d_v, self.heads.keys)?);
        }
        let [q, k, v] = found;
        Ok([
            Tensor::cat(&q, 0)?,
            Tensor::cat(&k, 0)?,
            Tensor::cat(&v, 0)?,
        ])
    }

    fn scale(&self) -> f64 {
        1.0 / (self.heads.dim as f64).sqrt()
    }

    /// Queries, keys and values by head, and the probabilities (f32) `[sequence and key head,
    /// query of its group, key]`.
    fn probabilities(
        &self,
        group: &Group,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor, Tensor)> {
        let q = self.by_head(group, &group.padded(q)?, self.heads.queries)?;
        let k = self.by_head(group, &group.padded(k)?, self.heads.keys)?;
        let v = self.by_head(group, &group.padded(v)?, self.heads.keys)?;
        let scores = q.matmul(&k.t()?.contiguous()?)?.to_dtype(DType::F32)?;
        let shape = scores.dims3()?;
        let shared = self.heads.queries / self.heads.keys;
        let by_query = (shape.0, shared, group.longest, group.longest);
        let scores = (scores * self.scale())?
            .reshape(by_query)?
            .broadcast_add(&group.mask)?;
        Ok((q, k, v, softmax(&scores)?.reshape(shape)?))
    }

    /// `[sequences * longest, heads * dim]` to `[sequences * key heads, queries of a key head *
    /// longest, dim]`: query heads that share a key head stand below one another.
    fn by_head(&self, group: &Group, padded: &Tensor, heads: usize) -> Result<Tensor> {
        let (sequences, longest) = (group.sequences, group.longest);
        let rows = heads / self.heads.keys * longest;
        padded
            .to_dtype(self.dtype)?
            .reshape((sequences, longest, heads, self.heads.dim))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((sequences * self.heads.keys, rows, self.heads.dim))
    }

    /// The way back from [`Layout::by_head`], to the group's rows, f32.
    fn unpadded(&self, group: &Group, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (sequences, longest, dim) = (group.sequences, group.longest, self.heads.dim);
        x.to_dtype(DType::F32)?
            .reshape((sequences, heads, longest, dim))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((sequences * longest, heads * dim))?
            .index_select(&group.from_padded, 0)
    }
}

impl Group {
    fn new(
        lengths: &[usize],
        longest: usize,
        rows: Range<usize>,
        device: &Device,
    ) -> Result<Group> {
        let padded = lengths.len() * longest;
        let mut to_padded = vec![rows.start as u32; padded];
        let mut real = vec![0f32; padded];
        let mut from_padded = Vec::with_capacity(rows.len());
        for (sequence, len) in lengths.iter().enumerate() {
            for position in 0..*len {
                let at = sequence * longest + position;
                to_padded[at] = (rows.start + from_padded.len()) as u32;
                real[at] = 1.0;
                from_padded.push(at as u32);
            }
        }
        let mut mask = vec![0f32; longest * longest];
        for (query, row) in mask.chunks_exact_mut(longest).enumerate() {
            row[query + 1..].fill(f32::NEG_INFINITY);
        }
        Ok(Group {
            sequences: lengths.len(),
            longest,
            to_padded: Tensor::from_vec(to_padded, padded, device)?,
            real: Tensor::from_vec(real, (padded, 1), device)?,
            from_padded: Tensor::from_vec(from_padded, rows.len(), device)?,
            mask: Tensor::from_vec(mask, (longest, longest), device)?,
        })
    }

    fn padded(&self, rows: &Tensor) -> Result<Tensor> {
        rows.index_select(&self.to_padded, 0)
    }
}

/// f32 that [`Layout`]'s passes over `rows` rows hold at once beside what they are given, where
/// sequences are of up to `longest` rows: the padded parts, and the scores of one group.
pub fn pass_floats(heads: Heads, rows: usize, longest: usize) -> usize {
    let all = rows * longest * heads.queries;
    let scores = all.min(SCORES).max(longest * longest * heads.queries);
    6 * rows * (heads.queries + 2 * heads.keys) * heads.dim + 4 * scores
}

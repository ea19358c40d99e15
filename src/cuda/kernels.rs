//! The kernels of `kernels.cu`, compiled for one model and the card at hand.

use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use crate::error::{Error, Result};
use crate::model::ModelConfig;

use super::device::{Device, failed};
use super::pages::PAGE;

/// Rows whose products the project's own kernels compute; more are cuBLAS's.
pub(super) const FEW: usize = 4;
/// Query heads of one key head that a block of `attend` serves at most.
const MOST_SHARED: usize = 8;

pub(super) struct Kernels {
    pub embed: CudaFunction,
    pub rms_norm: CudaFunction,
    pub rotate_store: CudaFunction,
    pub attend: CudaFunction,
    pub merge: CudaFunction,
    pub silu_gate: CudaFunction,
    pub argmax: CudaFunction,
    randomise: CudaFunction,
    /// By rows - 1.
    pub store: [CudaFunction; FEW],
    pub add: [CudaFunction; FEW],
    pub gate: [CudaFunction; FEW],
    pub logits: [CudaFunction; FEW],
    /// Query heads a block of `attend` serves.
    pub share: usize,
}

/// What the kernels ask of a model.
///
/// # Errors
/// What does not fit, in words.
pub(super) fn check(config: &ModelConfig) -> Result<()> {
    let d = config.head_dim;
    if d.is_power_of_two()
        && (16..=256).contains(&d)
        && config.hidden_size.is_multiple_of(8)
        && config.intermediate_size.is_multiple_of(8)
    {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "on a card heads must be of size 16, 32, 64, 128 or 256 and hidden and feed-forward \
         sizes multiples of 8; the model has {d}, {} and {}: use --device cpu",
        config.hidden_size, config.intermediate_size
    )))
}

fn share(config: &ModelConfig) -> usize {
    let group = config.num_attention_heads / config.num_key_value_heads;
    (1..=group.min(MOST_SHARED))
        .rev()
        .find(|s| group.is_multiple_of(*s))
        .unwrap_or(1)
}

/// PTX for a model on cards of this compute capability.
pub(super) fn compile(config: &ModelConfig, capability: (i32, i32)) -> Result<Ptx> {
    let define = |name: &str, value: usize| format!("-D{name}={value}");
    let options = CompileOptions {
        options: vec![
            format!(
                "--gpu-architecture=compute_{}{}",
                capability.0, capability.1
            ),
            define("HIDDEN", config.hidden_size),
            define("INNER", config.intermediate_size),
            define("HEADS", config.num_attention_heads),
            define("KV_HEADS", config.num_key_value_heads),
            define("HEAD_DIM", config.head_dim),
            define("LAYERS", config.num_hidden_layers),
            define("PAGE", PAGE),
            define("SHARE", share(config)),
        ],
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(include_str!("kernels.cu"), options).map_err(|error| {
        let text = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        };
        Error::Numeric(format!("NVRTC does not compile the kernels: {text}"))
    })
}

impl Kernels {
    pub fn load(device: &Device, config: &ModelConfig) -> Result<Kernels> {
        check(config)?;
        let capability = device
            .context()
            .compute_capability()
            .map_err(failed("asking the card"))?;
        let module = device
            .context()
            .load_module(compile(config, capability)?)
            .map_err(failed("loading the kernels"))?;
        let one = |name: &str| {
            module
                .load_function(name)
                .map_err(failed("loading a kernel"))
        };
        let by_rows = |name: &str| -> Result<[CudaFunction; FEW]> {
            Ok([
                one(&format!("{name}_1"))?,
                one(&format!("{name}_2"))?,
                one(&format!("{name}_3"))?,
                one(&format!("{name}_4"))?,
            ])
        };
        Ok(Kernels {
            embed: one("embed")?,
            rms_norm: one("rms_norm")?,
            rotate_store: one("rotate_store")?,
            attend: one("attend")?,
            merge: one("merge")?,
            silu_gate: one("silu_gate")?,
            argmax: one("argmax")?,
            randomise: one("randomise")?,
            store: by_rows("store")?,
            add: by_rows("add")?,
            gate: by_rows("gate")?,
            logits: by_rows("logits")?,
            share: share(config),
        })
    }

    /// `count` bf16 values uniform within `bound`, a function of the seed.
    pub fn random(
        &self,
        device: &Device,
        count: usize,
        bound: f32,
        seed: u64,
    ) -> Result<CudaSlice<u16>> {
        let room = device.room::<u16>(count, "random values")?;
        let count = count as u64;
        let mut call = device.stream().launch_builder(&self.randomise);
        call.arg(&room).arg(&count).arg(&seed).arg(&bound);
        let shape = LaunchConfig {
            grid_dim: (1024, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel writes `count` values, the room's size.
        unsafe { call.launch(shape) }.map_err(failed("making random values"))?;
        Ok(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs NVRTC, but no card.
    #[test]
    fn the_kernels_compile_for_every_shape() {
        #[cfg(not(feature = "cuda-training"))]
        // SAFETY: looking for a library runs nothing but its initialisers.
        if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return;
        }
        let mut wide = ModelConfig::tiny();
        (wide.num_attention_heads, wide.head_dim) = (16, 256);
        for config in [
            ModelConfig::tiny(),
            ModelConfig::smollm2_135m(),
            ModelConfig::llama_7b(),
            wide,
        ] {
            for capability in [(8, 0), (9, 0)] {
                let ptx = compile(&config, capability).unwrap().to_src();
                for kernel in ["attend", "store_4", "argmax", "rotate_store"] {
                    assert!(ptx.contains(&format!(".entry {kernel}(")), "{kernel}");
                }
            }
        }
        let mut odd = ModelConfig::tiny();
        odd.head_dim = 48;
        assert!(
            check(&odd)
                .unwrap_err()
                .to_string()
                .contains("--device cpu")
        );
    }

    #[test]
    fn blocks_share_as_many_heads_as_divide_the_group() {
        let mut config = ModelConfig::tiny();
        for (heads, expected) in [(1, 1), (3, 3), (8, 8), (12, 6), (16, 8), (11, 1)] {
            config.num_attention_heads = heads;
            assert_eq!(share(&config), expected);
        }
    }
}

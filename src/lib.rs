//! `lenaware`: can a language model (or something cheaper) tell how long its answer will be,
//! and what is that knowledge worth when requests are served in batches?
//!
//! Data flows one way, a stage a module:
//!
//! ```text
//! instruction ──▶ dataset ──▶ train ──▶ predictor ──▶ evaluate ──┐
//!                    ▲          │ lora                            │
//!                 engine        │                                 ▼
//!                    ▲          ▼                              report
//!                  model ◀── kernel                               ▲
//!                    │                                            │
//!                    └───▶ execute (live │ replay) ◀── schedule ──┘
//! ```
//!
//! * [`table`] streams the rows of others' files; [`instruction`] reads instruction sets;
//!   [`dataset`] turns them into length datasets by sampling [`model`] through [`engine`], or a
//!   server through [`endpoint`], and reads, imports, describes and stores those datasets.
//! * [`train`] and [`lora`] tune adapters; [`predictor`] holds everything that foresees lengths,
//!   and puts predictions as hints to serving engines.
//! * [`schedule`] is pure: predictions in, micro-batches out. [`execute`] runs micro-batches on
//!   the real model (`live`) or from recorded lengths (`replay`).
//! * [`online`] simulates serving over time: arrivals, continuous batching under a memory budget,
//!   and the policies that say who is next.
//! * [`evaluate`] keeps every metric, of predictors and of schedules; [`report`] draws them.
//! * [`config`] is the experiment file; [`cli`] the commands, a file each.

#![warn(missing_docs)]

pub mod chat;
pub mod cli;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dataset;
mod digest;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod execute;
pub mod experiment;
mod foreign;
pub mod instruction;
pub mod kernel;
pub mod lora;
pub mod memory;
pub mod model;
pub mod online;
pub mod persist;
pub mod predictor;
pub mod provenance;
mod regular_file;
pub mod report;
pub mod schedule;
pub mod table;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};

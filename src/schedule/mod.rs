//! Sequence scheduling: pure functions from predicted lengths to micro-batches. Nothing here
//! knows how a batch is run; `execute` does.

//! Instruction sets

//! Tests of the CLI, in one binary since they share a control plane to talk to.

mod args;
mod commands;
mod failures;
mod live;
mod support;
mod top;

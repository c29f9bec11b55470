//! What the parts of one fleet share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{Fault, InstanceId, ServiceName};
use atoll_runtime::{Clock, Random, Tasks};
use tokio::sync::Notify;
use tracing::warn;

use crate::ledger::Ledger;
use crate::output::{Logs, Output};
use crate::port::Ports;
use crate::ports::{Directory, Pending, Traffic};
use crate::record::RUN_VARIABLE;
use crate::workload::Workload;

/// Longest wait for the directory: it answers from memory, so more is a defect that
/// must not hold up the stopping of a replica.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Context {
    pub(crate) tasks: Tasks,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) traffic: Arc<dyn Traffic>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) ports: Ports,
    pub(crate) logs: Arc<Logs>,
    pub(crate) log_dir: PathBuf,
    /// Given to every process: `PATH`, `HOME`, `LANG`, `TZ`.
    pub(crate) environment: BTreeMap<String, String>,
    /// Given to builds beside that.
    pub(crate) build_environment: BTreeMap<String, String>,
    /// Something that the controller looks at has changed.
    pub(crate) changed: Notify,
    pub(crate) random: Mutex<Random>,
}

impl Context {
    pub(crate) fn clock(&self) -> &Clock {
        self.tasks.clock()
    }

    /// A generator of its own for a replica.
    pub(crate) fn random(&self) -> Random {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.fork()
    }

    pub(crate) fn output(&self, service: &ServiceName, source: &InstanceId) -> Arc<Output> {
        self.logs
            .output(service, source, &self.log_dir, self.clock())
    }

    /// The whole environment of a process of `workload`.
    pub(crate) fn environment(&self, workload: &Workload) -> BTreeMap<String, String> {
        let mut environment = self.environment.clone();
        environment.extend(workload.environment.clone());
        environment.insert("ATOLL_SERVICE".to_owned(), workload.service.to_string());
        environment.insert(RUN_VARIABLE.to_owned(), self.ledger.run());
        environment
    }

    /// Waits for the directory's answer, within reason; `what` names the call. Says
    /// what went wrong and returns whether nothing did.
    pub(crate) async fn ask(
        &self,
        what: &'static str,
        id: &InstanceId,
        call: Pending<'_, Result<(), Fault>>,
    ) -> bool {
        match tokio::time::timeout(DIRECTORY_PATIENCE, call).await {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                warn!(what, instance = %id, %fault, "the directory refused");
                false
            }
            Err(_) => {
                warn!(what, instance = %id, "the directory did not answer");
                false
            }
        }
    }
}

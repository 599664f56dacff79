//! A step, as a call: its output, and what it asks of its caller.

use slipway_proto::runtime::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Events, QUEUE};
use crate::{
    grpc::{
        step::{self, Questions},
        streams, view,
    },
    worker::{QUESTIONS, Worker},
};

pub async fn run_step(
    worker: &Worker,
    questions: &Questions,
    request: Request<pb::RunStepRequest>,
) -> Result<Response<Events<pb::RunStepEvent>>, Status> {
    let request = request.into_inner();
    let snapshot = worker.find(&request.snapshot_id)?;
    let step = step::step(worker, request)?;
    let mut asked = questions.of(&snapshot.id);
    let worker = worker.clone();
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let (output, mut pieces) = mpsc::channel(QUEUE);
        let (ask, mut questions) = mpsc::channel(QUESTIONS);
        let forward = async {
            loop {
                let event = tokio::select! {
                    piece = pieces.recv() => {
                        let Some(piece) = piece else { return };
                        let output = pb::run_step_event::Event::Output(streams::output(piece));
                        pb::RunStepEvent { event: Some(output) }
                    }
                    Some(question) = questions.recv() => asked.event(question),
                };
                if !streams::send(&send, event).await {
                    return;
                }
            }
        };
        let run = worker.run(&snapshot, step, output, &ask);
        let work = async { tokio::join!(run, forward).0 };
        // Dropping the work kills the step.
        tokio::select! {
            () = send.closed() => {}
            ended = work => {
                let event = ended.map(|record| pb::RunStepEvent {
                    event: Some(pb::run_step_event::Event::Exited(view::exited(&record))),
                });
                // The client is gone: nobody is to be told.
                let _ = send.send(event.map_err(Status::from)).await;
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

#include "engine/engine.h"

#include <chrono>
#include <utility>

namespace engine {

base::Result<StepResult> run_to_end(Engine& engine, Batch batch, LayersDone layers_done) {
    const Ticket ticket = engine.launch(std::move(batch), std::move(layers_done));
    return engine.collect(ticket, std::chrono::steady_clock::now() + std::chrono::minutes(10));
}

}  // namespace engine

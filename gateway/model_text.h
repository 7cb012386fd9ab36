#pragma once

#include <memory>

#include "gateway/request/text_port.h"
#include "text/model_text.h"

namespace gateway {

/// The TextPort of a real model folder. Reads every special token's text once; thread-safe afterwards.
std::shared_ptr<const TextPort> make_text_port(text::ModelText model);

}  // namespace gateway

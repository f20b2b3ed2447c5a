#pragma once

// Load a model and recommend, on the CPU.
#include "elcrec/backend/cpu.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/model/cl4srec.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/model/model_file.hpp"
#include "elcrec/precompiled/serve.hpp"
#include "elcrec/serve/recommender.hpp"
#include "elcrec/serve/slot.hpp"
#include "elcrec/serve/snapshot.hpp"

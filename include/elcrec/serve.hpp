#pragma once

// Load a model and recommend, on the CPU.
#include "elcrec/backend/cpu.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/precompiled/serve.hpp"
#include "elcrec/serve/recommender.hpp"
#include "elcrec/serve/slot.hpp"
#include "elcrec/serve/snapshot.hpp"

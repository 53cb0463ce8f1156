-- Health of a MoEDeployment for Argo CD, in argocd-cm under
-- resource.customizations.health.moe-operator.io_MoEDeployment. It says what kstatus says of the same object.
local health = { status = "Progressing", message = "the operator has not looked at it yet" }

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "it is being deleted"
  return health
end

local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at the latest change yet"
  return health
end

local told = {}
for _, condition in ipairs(status.conditions) do
  told[condition.type] = condition
end

local function is_true(kind)
  return told[kind] ~= nil and told[kind].status == "True"
end

if is_true("Reconciling") then
  health.message = told.Reconciling.message
elseif is_true("Stalled") then
  health.status = "Degraded"
  health.message = told.Stalled.message
elseif is_true("Ready") then
  -- Asleep (spec.experts.shards is 0) is what was asked for, and waited for by nobody.
  if told.Ready.reason == "Suspended" then
    health.status = "Suspended"
  else
    health.status = "Healthy"
  end
  health.message = told.Ready.message
elseif told.Ready ~= nil then
  health.message = told.Ready.message
end
return health

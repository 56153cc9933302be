--- Ghost text at the cursor, and how it follows typing.
---
--- From 0.12 on, `vim.lsp.inline_completion` draws. On its own it keeps showing text that no longer
--- fits, and accepting repeats what was typed since it asked (neovim#36529). So it does not ask the
--- server itself; after each key it is given the text that still fits.
local server = require("talaria.server")
local steps = require("talaria.steps")

local api = vim.api
local M = {}

local METHOD = "textDocument/inlineCompletion"
local INVOKED, AUTOMATIC = 1, 2
local PAUSE = 40 -- milliseconds without a key before asking the server, which debounces too
local namespace = api.nvim_create_namespace("talaria.ghost")

---@class talaria.Buffer
---@field client vim.lsp.Client
---@field native boolean whether Neovim draws
---@field draw? fun(items: lsp.InlineCompletionItem[]) nil if inline completion is disabled

---@type table<integer, talaria.Buffer?>
local buffers = {}

---Where the cursor was when the server was asked, and the answer.
---@class talaria.Suggestions
---@field buf integer
---@field row integer
---@field before string the line up to the cursor
---@field after string the line after the cursor
---@field items lsp.InlineCompletionItem[]
---@field index integer of the item shown
---@field invoked boolean whether several were requested
---@field rest? string rest of the item shown

---One cursor, so one ghost text.
local shown ---@type talaria.Suggestions?

---Languages that are switched off; "" means all.
M.off = {} ---@type table<string, true?>

---Whether suggestions are switched off in a buffer, here or in Neovim.
---@param buf integer
---@return boolean?
function M.is_off(buf)
  -- `is_enabled` cannot distinguish disabled from never enabled.
  local name = "_lsp_enabled_inline_completion"
  local native = vim.F.if_nil(vim.b[buf][name], vim.g[name], true)
  local drawn = not buffers[buf] or not buffers[buf].native
  return M.off[""] or M.off[vim.bo[buf].filetype] or not (drawn or native)
end

---@return talaria.Suggestions
local function here()
  local row, col = unpack(api.nvim_win_get_cursor(0))
  local line, buf = api.nvim_get_current_line(), api.nvim_get_current_buf()
  return { buf = buf, row = row - 1, before = line:sub(1, col), after = line:sub(col + 1) }
end

---The text typed since the server was asked; nil if the lines changed in another way.
---@param place talaria.Suggestions
---@return string?
local function typed(place)
  local now = here()
  if now.row < place.row or now.after ~= place.after then return nil end
  local lines = api.nvim_buf_get_text(now.buf, place.row, 0, now.row, #now.before, {})
  local text = table.concat(lines, "\n")
  return vim.startswith(text, place.before) and text:sub(#place.before + 1) or nil
end

---Draw one item or none; whether anything can draw.
---@param buf integer
---@param item? lsp.InlineCompletionItem
---@return boolean
local function draw(buf, item)
  local state = buffers[buf]
  api.nvim_buf_clear_namespace(buf, namespace, 0, -1)
  if state.draw then state.draw({ item }) end
  return state.draw ~= nil
end

---Remove the ghost text.
function M.clear()
  local former = shown
  shown = nil
  if former then draw(former.buf) end
end

---Show the text that still fits at the cursor; false if none does.
---@param step? integer 1 or -1 to show another item in that direction
---@return boolean
function M.refresh(step)
  if not shown or shown.buf ~= api.nvim_get_current_buf() then return false end
  local since, begin = not M.is_off(shown.buf) and typed(shown) or nil, step and 1 or 0
  for turn = begin, since and begin + #shown.items - 1 or -1 do
    local index = (shown.index - 1 + turn * (step or 1)) % #shown.items + 1
    local item = shown.items[index]
    if #item.insertText > #since and vim.startswith(item.insertText, since) then
      shown.index, shown.rest = index, item.insertText:sub(#since + 1)
      local encoding = buffers[shown.buf].client.offset_encoding
      local position = vim.lsp.util.make_position_params(0, encoding).position
      local range = { start = position, ["end"] = position }
      return draw(shown.buf, { insertText = shown.rest, range = range, command = item.command })
    end
  end
  M.clear()
  return false
end

---Request suggestions at the cursor, which supersedes an older request.
---@param kind lsp.InlineCompletionTriggerKind
---@param answered? fun(all: talaria.Suggestions)
local function ask(kind, answered)
  local place = here()
  local state = buffers[place.buf]
  local function typing()
    local inserting = vim.startswith(api.nvim_get_mode().mode, "i")
    return inserting and state and buffers[api.nvim_get_current_buf()] == state
  end
  if not typing() or M.is_off(place.buf) then return end
  if kind == AUTOMATIC and (M.refresh() or not state.draw) then return end
  local params = vim.lsp.util.make_position_params(0, state.client.offset_encoding)
  ---@cast params lsp.InlineCompletionParams
  params.context = { triggerKind = kind }
  server.call(state.client, "request", METHOD, params, function(err, result)
    if err or not result or #result == 0 or not typing() then return end
    for _, item in ipairs(result) do
      item.insertText = item.insertText:gsub("\r\n", "\n")
    end
    place.items, place.index, place.invoked = result, 1, kind == INVOKED
    M.clear()
    shown = place
    if M.refresh() and answered then answered(place) end
  end, place.buf)
end

---The first word or line of a text, by the same rules as the server.
---@param text string
---@param part? "word"|"line"
---@return string
local function first(text, part)
  if part == "word" then
    return text:match("^%s*[%w_\128-\255]+[ \t]*")
      or text:match("^%s*[^%w_%s\128-\255]+[ \t]*")
      or text
  end
  return part == "line" and text:match("^%s*[^\n]*\n?") or text
end

---Accept the ghost text, or its first word or line; false if there is none.
---@param part? "word"|"line"
---@return boolean
function M.accept(part)
  if not M.refresh() or not shown then return false end
  local text, command = first(shown.rest, part), shown.items[shown.index].command
  local all, buf = text == shown.rest, shown.buf
  vim.bo[buf].undolevels = vim.bo[buf].undolevels -- setting it closes the current undo step
  api.nvim_put(vim.split(text, "\n", { plain = true }), "c", false, true)
  M.refresh()
  if all and command then server.execute(buffers[buf].client, "accepted", command.arguments) end
  return true
end

---Show the next or previous suggestion; the first time, request several.
---@param step integer 1 or -1
---@return boolean
function M.cycle(step)
  if not M.refresh() or not shown then return false end
  local rest = shown.rest
  ---@param all talaria.Suggestions
  local function turn(all)
    if all.rest == rest then M.refresh(step) end
    local row, col = unpack(api.nvim_win_get_cursor(0))
    local hint = { ("  %d/%d"):format(all.index, #all.items), "TalariaMask" }
    local how = { virt_text = { hint }, virt_text_pos = "eol" }
    api.nvim_buf_set_extmark(all.buf, namespace, row - 1, col, how)
  end
  if shown.invoked then
    turn(shown)
  else
    ask(INVOKED, turn)
  end
  return true
end

---Request suggestions, even where none appear automatically.
function M.suggest() ask(INVOKED) end

---Dismiss the ghost text; false if there is none.
---@return boolean
function M.dismiss()
  if not M.refresh() or not shown then return false end
  local client, params = buffers[shown.buf].client, { uri = vim.uri_from_bufnr(shown.buf) }
  M.clear()
  server.call(client, "notify", "talaria/didDismiss", params)
  return true
end

---Let Neovim's own inline completion draw, by answering its requests with our items.
---@param client vim.lsp.Client
function M.lead_native(client)
  local request = client.request
  ---@diagnostic disable-next-line: duplicate-set-field
  client.request = function(self, method, params, handler, buf)
    local state = method == METHOD and buffers[buf]
    if not state then return request(self, method, params, handler, buf) end
    local context = { client_id = client.id, bufnr = buf, method = METHOD }
    local new = not state.draw
    state.draw = function(items)
      -- The handler raises an error if inline completion was disabled.
      if not pcall(handler, nil, { items = items }, context) then
        state.draw, shown = nil, nil
      end
    end
    if new then ask(AUTOMATIC) end
    return false
  end
end

---Remove a client from Neovim's inline completion. Neovim does so itself only if the whole buffer
---is enabled, and otherwise fails at each key once the client is gone.
---@param client vim.lsp.Client
---@param buf integer
local function leave_native(client, buf)
  local path = { "_capability", "all", "inline_completion", "active", buf }
  local completor = vim.tbl_get(vim.lsp, unpack(path))
  if not completor or not completor.client_state[client.id] then return end
  completor:on_detach(client.id)
  if not next(completor.client_state) then completor:destroy() end
end

---Attach to a buffer: ghost text follows each key; drawn steps go when their command ends or the
---text changes.
---@param client vim.lsp.Client
---@param buf integer
---@param native boolean whether Neovim draws
function M.attach(client, buf, native)
  local state, keys = { client = client, native = native }, 0 ---@type talaria.Buffer, integer
  buffers[buf] = state
  server.follow(client, buf)
  if native then
    -- Only for our client: enabling it for the whole buffer would also ask every other server.
    -- Scheduled, because Neovim adds the client to the buffer after this.
    vim.schedule(function()
      local filter = { bufnr = buf, client_id = client.id }
      if buffers[buf] == state then vim.lsp.inline_completion.enable(true, filter) end
    end)
  else
    state.draw = function(items)
      if not items[1] then return end
      local lines = steps.lines({ { items[1].insertText, "TalariaGhost" } })
      local row, col = unpack(api.nvim_win_get_cursor(0))
      api.nvim_buf_set_extmark(buf, namespace, row - 1, col, {
        virt_text = lines[1],
        virt_text_pos = "inline",
        virt_lines = vim.list_slice(lines, 2),
        hl_mode = "combine",
      })
    end
  end
  local group = api.nvim_create_augroup("talaria.ghost:" .. buf, {})
  local function on(events, callback)
    api.nvim_create_autocmd(events, { group = group, buffer = buf, callback = callback })
  end
  on({ "InsertEnter", "CursorMovedI", "TextChangedI", "TextChangedP" }, function()
    keys = keys + 1
    local key = keys
    if M.refresh() then return end
    vim.defer_fn(function()
      if keys == key then ask(AUTOMATIC) end
    end, PAUSE)
  end)
  on("InsertLeave", M.clear)
  on({ "TextChanged", "TextChangedI" }, function() steps.clear(buf) end)
  on("LspRequest", function(event)
    local request = event.data.request
    local ended = request.type ~= "pending"
    if ended and request.method == "workspace/executeCommand" then steps.clear(buf) end
  end)
  on("LspDetach", function(event)
    if event.data.client_id ~= client.id then return end
    M.clear()
    steps.clear(buf)
    if native then leave_native(client, buf) end
    buffers[buf] = nil
    api.nvim_del_augroup_by_id(group)
  end)
end

return M
